//! The rows of the lock and election services, and what etcd 3.7.3 answers to more of their mistakes (asked of one by hand).

use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde_json::{Value, json};
use setstone::proto::CLIENT_DESCRIPTORS;
use tonic::transport::Channel;

use super::{Server, ask, recorded, row, without_ids};

pub fn method_of(path: &str) -> Option<MethodDescriptor> {
    let (service, method) = match path {
        "/v3/lock/lock" => ("v3lockpb.Lock", "Lock"),
        "/v3/lock/unlock" => ("v3lockpb.Lock", "Unlock"),
        "/v3/election/campaign" => ("v3electionpb.Election", "Campaign"),
        "/v3/election/proclaim" => ("v3electionpb.Election", "Proclaim"),
        "/v3/election/leader" => ("v3electionpb.Election", "Leader"),
        "/v3/election/resign" => ("v3electionpb.Election", "Resign"),
        _ => return None,
    };
    let pool = DescriptorPool::decode(CLIENT_DESCRIPTORS).unwrap();
    pool.get_service_by_name(service).unwrap().methods().find(|known| known.name() == method)
}

/// A recorded answer at another revision, with other leases. The keys end with the lease in hexadecimal digits.
fn as_if(mut recorded: Value, revision: i64, lease: Option<i64>, name: &str) -> Value {
    let moved = |field: &mut Value| *field = json!(revision.to_string());
    recorded["header"]
        .as_object_mut()
        .map(|header| header.insert("revision".into(), json!(revision.to_string())));
    let key = lease.map(|lease| base64(&format!("{name}/{lease:x}")));
    for inner in ["leader", "kv"] {
        if let Some(fields) = recorded.get_mut(inner).and_then(Value::as_object_mut) {
            fields["key"] = json!(key);
            fields["lease"] = json!(lease.unwrap().to_string());
            for field in ["rev", "create_revision", "mod_revision"] {
                if let Some(field) = fields.get_mut(field) {
                    moved(field);
                }
            }
        }
    }
    if let Some(field) = recorded.get_mut("key") {
        *field = json!(key);
    }
    recorded
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS[bits as usize & 63]);
    text.as_bytes()
        .chunks(3)
        .map(|chunk| {
            let bits =
                chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            let all = [digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), digit(bits)];
            all.iter().take(chunk.len() + 1).collect::<String>() + &"=".repeat(3 - chunk.len())
        })
        .collect()
}

async fn post(channel: &Channel, path: &str, body: Value) -> Value {
    without_ids(ask(channel, &json!({ "path": path, "body": body })).await)
}

/// The only lease that was not known before.
async fn new_lease(channel: &Channel, known: &mut Vec<i64>) -> i64 {
    let leases = post(channel, "/v3/lease/leases", json!({})).await;
    let ids = leases["leases"].as_array().unwrap().iter();
    let ids: Vec<i64> = ids.map(|lease| lease["ID"].as_str().unwrap().parse().unwrap()).collect();
    let new: Vec<i64> = ids.into_iter().filter(|id| !known.contains(id)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    known.push(new[0]);
    new[0]
}

pub async fn locks_and_elections_answer_as_etcd_does(server: Server) {
    let channel = server.channel().await;
    let mut leases = Vec::new();
    let answer = |number: usize| {
        let channel = channel.clone();
        async move { without_ids(ask(&channel, &row(number)).await) }
    };
    let expected = |number| without_ids(recorded(&row(number)));

    let locked = answer(129).await;
    let lease = new_lease(&channel, &mut leases).await;
    assert_eq!(locked, as_if(expected(129), 2, Some(lease), "L"));
    let life = post(&channel, "/v3/lease/timetolive", json!({ "ID": lease, "keys": true })).await;
    assert_eq!((&life["grantedTTL"], &life["keys"]), (&json!("60"), &json!([locked["key"]])));

    let campaigned = answer(130).await;
    let lease = new_lease(&channel, &mut leases).await;
    assert_eq!(campaigned, as_if(expected(130), 3, Some(lease), "E"));
    assert_eq!(answer(131).await, as_if(expected(131), 3, Some(lease), "E"));
    for number in [132, 133] {
        assert_eq!(answer(number).await, recorded(&row(number)), "row {number}");
    }

    // A new value, and the end.
    let leader = &campaigned["leader"];
    let proclaimed =
        post(&channel, "/v3/election/proclaim", json!({ "leader": leader, "value": "dw==" })).await;
    assert_eq!(proclaimed, json!({ "header": { "revision": "4" } }));
    assert_eq!(answer(131).await["kv"]["value"], "dw==");
    let resigned = post(&channel, "/v3/election/resign", json!({ "leader": leader })).await;
    assert_eq!(resigned, json!({ "header": { "revision": "5" } }));
    assert_eq!(answer(131).await, json!({ "code": 2, "message": "election: no leader" }));
    let unlocked = post(&channel, "/v3/lock/unlock", json!({ "key": locked["key"] })).await;
    assert_eq!(unlocked, json!({ "header": { "revision": "6" } }));

    let unknown = |text: &str| json!({ "code": 2, "message": text });
    let no_key = || unknown("etcdserver: key is not provided");
    let at_6 = || json!({ "header": { "revision": "6" } });
    let gone = json!({ "leader": leader, "value": "dw==" });
    let no_lease = || unknown("etcdserver: requested lease not found");
    for (path, body, expected) in [
        ("/v3/lock/lock", json!({ "name": "TA==", "lease": 99 }), no_lease()),
        ("/v3/election/campaign", json!({ "name": "RQ==", "lease": 99 }), no_lease()),
        ("/v3/lock/unlock", json!({}), no_key()),
        ("/v3/lock/unlock", json!({ "key": "eA==" }), at_6()),
        ("/v3/election/resign", json!({}), unknown("\"leader\" field must be provided")),
        ("/v3/election/resign", json!({ "leader": {} }), no_key()),
        ("/v3/election/resign", json!({ "leader": { "key": "eA==", "rev": 3 } }), at_6()),
        ("/v3/election/proclaim", json!({ "leader": {} }), no_key()),
        (
            "/v3/election/proclaim",
            json!({ "leader": { "key": "eA==", "rev": 3 } }),
            unknown("election: not leader"),
        ),
        ("/v3/election/proclaim", gone, unknown("election: not leader")),
        ("/v3/election/leader", json!({}), unknown("election: no leader")),
    ] {
        assert_eq!(post(&channel, path, body.clone()).await, expected, "{path} {body}");
    }

    // A negative lease, as Go prints it.
    post(&channel, "/v3/lease/grant", json!({ "ID": -77, "TTL": 30 })).await;
    let locked = post(&channel, "/v3/lock/lock", json!({ "name": "bmVn", "lease": -77 })).await;
    assert_eq!(locked["key"], base64("neg/-4d"));
    // The same lease holds it already.
    let again = post(&channel, "/v3/lock/lock", json!({ "name": "bmVn", "lease": -77 })).await;
    assert_eq!(again, locked);
}
