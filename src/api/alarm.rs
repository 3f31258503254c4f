//! etcd's alarms.

use bytes::Bytes;
use tonic::Code;

use super::{Shared, convert, texts};
use crate::identity::NodeId;
use crate::mvcc::alarm::{Alarm, AlarmCommand, AlarmKind, Cause};
use crate::mvcc::cluster::ClusterCommand;
use crate::mvcc::command::{Command, Outcome, Request};
use crate::proto::etcdserverpb as pb;
use crate::transport::{Failure, grpc};
use pb::alarm_request::AlarmAction;

/// Lists, raises or lowers alarms. As with etcd, GET does not look at the member.
pub(super) async fn alarm(api: &Shared, request: pb::AlarmRequest) -> Result<Bytes, Failure> {
    let wanted = kind(request.alarm)?;
    let raised = match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => {
            api.store.barrier().await.map_err(|error| texts::failure(&error))?;
            let mut alarms = api.store.alarms();
            alarms.retain(|alarm| wanted.is_none_or(|kind| alarm.kind == kind));
            return Ok(answer(api, alarms, None));
        }
        Ok(AlarmAction::Activate) => true,
        Ok(AlarmAction::Deactivate) => false,
        Err(_) => return Err(unknown("action", request.action)),
    };
    // NONE is no alarm, and so is neither raised nor lowered.
    let Some(kind) = wanted else { return Ok(answer(api, Vec::new(), None)) };
    let alarm = Alarm { kind, member: NodeId(request.member_id) };
    let command = AlarmCommand { alarm, cause: Cause::Held, raised };
    let request = Request::anonymous(Command::Cluster(ClusterCommand::Alarm(command)));
    let (reply, term) = api.store.propose(request).await.map_err(|error| texts::failure(&error))?;
    let Outcome::Alarms(alarms) = reply.outcome else { return Err(convert::unexpected()) };
    Ok(answer(api, alarms, Some((reply.revision, term))))
}

fn kind(number: i32) -> Result<Option<AlarmKind>, Failure> {
    match number {
        0 => Ok(None),
        number => u32::try_from(number)
            .ok()
            .and_then(AlarmKind::from_number)
            .map(Some)
            .ok_or_else(|| unknown("alarm", number)),
    }
}

fn unknown(what: &str, number: i32) -> Failure {
    Failure::new(Code::InvalidArgument, format!("etcdserver: there is no {what} {number}"))
}

/// `applied`: revision and term at which something was done.
fn answer(api: &Shared, alarms: Vec<Alarm>, applied: Option<(i64, u64)>) -> Bytes {
    let position = api.store.position();
    let (revision, term) = applied.unwrap_or((position.revision, 0));
    let alarms = alarms
        .into_iter()
        .map(|alarm| pb::AlarmMember { member_id: alarm.member.0, alarm: alarm.kind as i32 })
        .collect();
    grpc::encode(&pb::AlarmResponse { header: Some(api.headers.at(&position, revision, term)), alarms })
}

/// As etcd puts it into the errors of a status.
pub(super) fn describe(alarm: Alarm) -> String {
    let name = alarm.kind.name();
    match alarm.member {
        NodeId(0) => format!("alarm:{name}"),
        NodeId(id) => format!("memberID:{id} alarm:{name}"),
    }
}

/// The reason of `/health` for an alarm.
pub(super) fn reason(alarm: Alarm) -> String {
    format!("ALARM {}", alarm.kind.name())
}
