//! Tokens: how they are made and sent, and when they are void.

use std::sync::Arc;
use std::time::Duration;

use setstone::config::{Jwt, Tokens};
use setstone::limits;
use setstone::proto::etcdserverpb as pb;
use setstone::testing::TestCluster;
use tokio::time::Instant;

use super::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_sent_in_either_header_and_looked_up_as_it_is() {
    let (node, _) = with_users(config(Tokens::Simple, limits::TOKEN_TTL)).await;
    let calls = Calls::to(node.addresses().client).await;
    let token = calls.token("alice", "alice").await.unwrap();
    for (name, value, says) in [
        ("token", token.clone(), Said::Fine),
        ("token", format!("Bearer {token}"), Said::Fine),
        ("authorization", token.clone(), Said::Fine),
        ("authorization", format!("Bearer {token}"), Said::Fine),
        ("authorization", format!("Basic {token}"), Said::NoToken),
        ("token", token[1..].to_owned(), Said::NoToken),
        ("token", format!("{token}0"), Said::NoToken),
        ("token", String::new(), Said::NoToken),
        ("token", "x.18446744073709551615".into(), Said::NoToken),
        ("token", "x.18446744073709551616".into(), Said::NoToken),
        ("token", "x.-1".into(), Said::NoToken),
    ] {
        let asked = Instant::now();
        assert_eq!(
            said(&calls.with(name, value.clone()).range("r", "", false).await),
            says,
            "{name} {value:?}"
        );
        assert!(asked.elapsed() < limits::TOKEN_WAIT + Duration::from_secs(3), "nobody waits for ever");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_void_when_its_user_changes_and_when_it_is_not_used() {
    let (node, root) = with_users(config(Tokens::Simple, Duration::from_secs(1))).await;
    let calls = Calls::to(node.addresses().client).await;
    let alice = calls.user("alice").await;
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        assert_eq!(said(&alice.range("r", "", true).await), Said::Fine, "it is used");
        // It must be used; more often changes nothing.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let idle = calls.user("alice").await;
    let deadline = Instant::now() + PATIENCE;
    // The time itself is what is tested.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(Instant::now() < deadline);
    assert_eq!(said(&idle.range("r", "", true).await), Said::NoToken, "nobody used it for a second");

    let alice = calls.user("alice").await;
    root.user_change_password("alice", "new").await.unwrap();
    assert_eq!(said(&alice.range("r", "", false).await), Said::NoToken);
    assert_eq!(said(&calls.token("alice", "alice").await), Said::Failed);
    let alice = calls.with_token(&calls.token("alice", "new").await.unwrap());
    assert_eq!(said(&alice.range("r", "", false).await), Said::Fine);
    // A role less: the token is still one, and what it may is less.
    root.user_revoke_role("alice", "r").await.unwrap();
    assert_eq!(said(&alice.range("r", "", false).await), Said::Denied);
    root.user_grant_role("alice", "r").await.unwrap();
    assert_eq!(said(&alice.range("r", "", false).await), Said::Fine);
    root.user_delete("alice").await.unwrap();
    assert_eq!(said(&alice.range("r", "", false).await), Said::NoToken);
    assert_eq!(said(&calls.token("alice", "new").await), Said::Failed);

    let before = calls.user("root").await;
    root.auth_disable().await.unwrap();
    assert_eq!(said(&calls.range("r", "", false).await), Said::Fine, "nobody is asked");
    assert_eq!(said(&before.range("r", "", false).await), Said::Fine, "a token is not looked at");
    assert_eq!(said(&calls.token("root", "root").await), Said::NotEnabled);
    root.auth_enable().await.unwrap();
    assert_eq!(said(&before.range("r", "", false).await), Said::NoToken);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_answered_like_an_unknown_user() {
    let (node, root) = with_users(config(Tokens::Simple, limits::TOKEN_TTL)).await;
    root.user_add("certificate", None).await.unwrap();
    let calls = Calls::to(node.addresses().client).await;
    for (user, password) in
        [("alice", "x"), ("alice", ""), ("bob", "bob"), ("", ""), ("certificate", ""), ("certificate", "x")]
    {
        assert_eq!(said(&calls.token(user, password).await), Said::Failed, "{user:?} {password:?}");
    }
    let long = "x".repeat(73);
    assert_eq!(said(&calls.token("alice", &long).await), Said::Failed);
    let refused = root.user_add("long", Some(&long)).await.unwrap_err();
    assert!(refused.to_string().contains("password length exceeds 72 bytes"), "{refused}");
    // A client's own hash: of "secret", made by bcrypt with cost 4.
    let hashed = bcrypt::hash("secret", 4).unwrap();
    let encode = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let add = |name: &str, hashed: String| pb::AuthUserAddRequest {
        name: name.into(),
        hashed_password: hashed,
        ..Default::default()
    };
    let admin = calls.user("root").await;
    let added: Result<pb::AuthUserAddResponse, _> =
        admin.ask("etcdserverpb.Auth/UserAdd", add("hashed", encode(&hashed))).await;
    assert_eq!(said(&added), Said::Fine);
    assert_eq!(said(&calls.token("hashed", "secret").await), Said::Fine);
    assert_eq!(said(&calls.token("hashed", "").await), Said::Failed);
    let costly = encode(&hashed.replace("$04$", "$31$"));
    let refused: Result<pb::AuthUserAddResponse, _> =
        admin.ask("etcdserverpb.Auth/UserAdd", add("costly", costly)).await;
    assert_eq!(refused.unwrap_err().message(), "etcdserver: invalid auth management");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_passwords_is_refused_and_those_with_tokens_are_served() {
    let slow = setstone::config::AuthConfig { bcrypt_cost: 10, ..Default::default() };
    let (node, _) = with_users(setstone::Config { auth: slow, ..setstone::Config::in_memory("alone") }).await;
    let calls = Calls::to(node.addresses().client).await;
    let alice = calls.user("alice").await;
    let flood: Vec<_> = (0..4 * limits::PASSWORDS_WAITING)
        .map(|_| {
            let calls = calls.clone();
            tokio::spawn(async move { calls.token("alice", "wrong").await })
        })
        .collect();
    let mut served = 0;
    while !flood.iter().all(tokio::task::JoinHandle::is_finished) {
        let asked = Instant::now();
        assert_eq!(said(&alice.range("r", "", false).await), Said::Fine);
        assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
        served += 1;
    }
    assert!(served > 10, "{served}");
    let (mut failed, mut refused) = (0, 0);
    for answer in flood {
        match answer.await.unwrap().unwrap_err().message() {
            "etcdserver: authentication failed, invalid user ID or password" => failed += 1,
            "etcdserver: too many requests" => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(failed >= limits::PASSWORDS_WAITING / 4 && refused > 0, "{failed} {refused}");
    assert!(calls.token("alice", "alice").await.is_ok(), "there is room again");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_knows_a_token_and_writes_of_followers_say_whose_they_are() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    set_up(&cluster.client()).await;
    let mut members = Vec::new();
    for index in 0..3 {
        members.push(Calls::to(cluster.node(index).unwrap().addresses().client).await);
    }
    for (index, member) in members.iter().enumerate() {
        let token = member.token("alice", "alice").await.unwrap();
        for other in &members {
            // A follower may not have heard of it yet: it waits.
            let alice = other.with_token(&token);
            assert_eq!(said(&alice.range("r", "", true).await), Said::Fine);
            assert_eq!(said(&alice.put(put(&format!("w{index}"))).await), Said::Fine);
            assert_eq!(said(&alice.put(put("r")).await), Said::Denied);
            assert_eq!(said(&other.put(put("w")).await), Said::Nobody);
        }
    }
    // Refused wherever it is asked, as soon as it is confirmed anywhere.
    let root = remote(cluster.node(0).unwrap().addresses().client, Some(("root", "root")));
    let token = members[1].token("alice", "alice").await.unwrap();
    root.user_revoke_role("alice", "r").await.unwrap();
    for member in &members {
        let answer = member.with_token(&token).put(put("w")).await;
        assert!([Said::Denied, Said::Old].contains(&said(&answer)), "{answer:?}");
    }
    root.user_grant_role("alice", "r").await.unwrap();
    // Who has been confirmed a permission has it at every member, also at one that lags.
    for member in &members {
        let answer = member.with_token(&token).range("r", "", true).await;
        assert_eq!(said(&answer), Said::Fine);
    }
    // A member that was away knows no token, and says so; a client that has a password gets another.
    cluster.stop(2).await;
    cluster.start_again(2).await.unwrap();
    let again = Calls::to(cluster.node(2).unwrap().addresses().client).await;
    let answer = again.with_token(&token).range("r", "", false).await;
    assert_eq!(said(&answer), Said::NoToken);
    let token = again.token("alice", "alice").await.unwrap();
    assert_eq!(said(&members[0].with_token(&token).range("r", "", false).await), Said::Fine);
    cluster.shutdown().await;
}

fn jwt(method: &str, public: Option<&str>, private: Option<&str>) -> Tokens {
    let path = |name: &str| format!("{}/tests/fixtures/keys/{name}", env!("CARGO_MANIFEST_DIR")).into();
    let ttl = Duration::from_secs(300);
    Tokens::Jwt(Jwt {
        method: method.into(),
        public_key: public.map(path),
        private_key: private.map(path),
        ttl,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_tokens_are_void_for_keys_when_users_have_changed() {
    let (node, root) = with_users(config(jwt("ES256", None, Some("ec.pem")), limits::TOKEN_TTL)).await;
    let calls = Calls::to(node.addresses().client).await;
    let token = calls.token("alice", "alice").await.unwrap();
    assert_eq!(token.split('.').count(), 3, "{token}");
    let alice = calls.with("authorization", format!("Bearer {token}"));
    assert_eq!(said(&alice.range("r", "", false).await), Said::Fine);
    assert_eq!(said(&alice.put(put("x")).await), Said::Denied);
    let admin = calls.user("root").await;
    root.user_add("bob", Some("bob")).await.unwrap();
    assert_eq!(said(&alice.range("r", "", false).await), Said::Old);
    assert_eq!(said(&alice.range("r", "", true).await), Said::Old);
    assert_eq!(said(&alice.put(put("w")).await), Said::Old);
    assert_eq!(said(&admin.put(put("w")).await), Said::Old);
    // As in etcd, whoever administers may go on.
    let users: Result<pb::AuthUserListResponse, _> =
        admin.ask("etcdserverpb.Auth/UserList", pb::AuthUserListRequest {}).await;
    assert_eq!(users.unwrap().users, ["alice", "bob", "root"]);
    let new = calls.user("alice").await;
    assert_eq!(said(&new.range("r", "", false).await), Said::Fine);
    // A simple token is none here.
    assert_eq!(said(&calls.with_token("abcdefghijklmnop.5").range("r", "", false).await), Said::NoToken);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cannot_be_used_end_the_start_and_are_named() {
    for (tokens, said) in [
        (jwt("RS256", None, Some("none.pem")), "none.pem"),
        (jwt("RS256", None, Some("ec.pem")), "is not of a kind"),
        (jwt("RS256", None, None), "there is no key"),
        (jwt("HS257", None, Some("ec.pem")), "HS257"),
        (jwt("ES256", Some("ec384.pub"), Some("ec.pem")), "do not belong together"),
    ] {
        let Err(error) = setstone::Node::start(config(tokens, limits::TOKEN_TTL)).await else {
            panic!("it started: {said}");
        };
        assert!(error.to_string().contains(said), "{error}");
    }
    // With a public key alone tokens of others are taken, and none is made.
    let (node, _) = {
        let node = start(config(jwt("RS256", Some("rsa.pub"), None), limits::TOKEN_TTL)).await;
        set_up(&remote(node.addresses().client, None)).await;
        (node, Arc::new(()))
    };
    let calls = Calls::to(node.addresses().client).await;
    let refused = calls.token("alice", "alice").await.unwrap_err();
    assert_eq!(refused.message(), "auth: token signing attempted with verify-only key");
    node.shutdown().await;
}
