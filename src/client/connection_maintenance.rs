//! Maintenance of one endpoint: alarms, defragmentation, snapshots.

use std::time::Duration;

use super::{Connection, attempt, timed};
use crate::client::failure::{self, Kind};
use crate::client::{Alarm, Answer, Snapshot, wire};
use crate::error::Error;
use crate::limits;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmResponse, DefragmentRequest, SnapshotRequest};

impl Connection {
    pub(in crate::client) async fn alarms_within(
        mut self,
        limit: Duration,
    ) -> Result<Answer<Vec<Alarm>>, Error> {
        let request = AlarmRequest { action: AlarmAction::Get as i32, ..AlarmRequest::default() };
        let call = self.maintenance.alarm(timed(request, limit));
        alarms(&attempt(Kind::Read, limit, &self.endpoint, call).await?)
    }

    pub(in crate::client) async fn set_alarm_within(
        mut self,
        alarm: Alarm,
        raised: bool,
        limit: Duration,
    ) -> Result<Answer<Vec<Alarm>>, Error> {
        let action = if raised { AlarmAction::Activate } else { AlarmAction::Deactivate };
        let request =
            AlarmRequest { action: action as i32, member_id: alarm.member.0, alarm: alarm.kind as i32 };
        let call = self.maintenance.alarm(timed(request, limit));
        // Twice is the same as once.
        alarms(&attempt(Kind::Read, limit, &self.endpoint, call).await?)
    }

    pub(in crate::client) async fn defragment_within(mut self, limit: Duration) -> Result<Answer<()>, Error> {
        let limit = limit.max(limits::CALLER_LONG_TIMEOUT);
        let call = self.maintenance.defragment(timed(DefragmentRequest {}, limit));
        // Twice is the same as once, but takes as long again.
        let response = attempt(Kind::Write, limit, &self.endpoint, call).await?;
        Ok(wire::answer(response.header.as_ref(), ()))
    }

    pub(in crate::client) async fn snapshot_within(
        mut self,
        limit: Duration,
    ) -> Result<Answer<Snapshot>, Error> {
        // It is made before the first piece comes.
        let limit = limit.max(limits::CALLER_LONG_TIMEOUT);
        let call = self.maintenance.snapshot(SnapshotRequest {});
        let mut pieces = attempt(Kind::Read, limit, &self.endpoint, call).await?;
        let first = async { pieces.message().await.map(tonic::Response::new) };
        let first = attempt(Kind::Read, limit, &self.endpoint, first).await?;
        let first = first.ok_or_else(|| failure::malformed("the snapshot is empty", Kind::Read))?;
        let answer = wire::answer(first.header.as_ref(), ());
        let value = Snapshot::remote(pieces, first, self.endpoint.authority());
        Ok(Answer { header: answer.header, value })
    }
}

fn alarms(response: &AlarmResponse) -> Result<Answer<Vec<Alarm>>, Error> {
    let answer = wire::answer(response.header.as_ref(), ());
    let value = response.alarms.iter().map(wire::alarm).collect::<Result<_, _>>()?;
    Ok(Answer { header: answer.header, value })
}
