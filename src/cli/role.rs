//! `setstone role`: roles and what they permit, with the words and habits of etcdctl.

use std::io::Write;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::Global;
use super::exit::{Exit, Failure};
use super::keys::Keys;
use super::output::print_answer;
use super::text::Encoding;
use crate::client::{Access, Permission, prefix_end};

/// Adds, shows, changes and deletes roles
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone role add readers
  setstone role grant-permission readers read config/ --prefix
  setstone role grant-permission writers readwrite a f          keys from a up to f
  setstone role get readers
  setstone role revoke-permission readers config/ --prefix")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Adds a role
    Add {
        /// Its name
        name: String,
    },
    /// Deletes a role
    Delete {
        /// Its name
        name: String,
    },
    /// Shows what a role permits
    Get {
        /// Its name
        name: String,
        /// Print keys as hexadecimal digits
        #[arg(long)]
        hex: bool,
    },
    /// Lists all roles
    List,
    /// Lets a role read or write keys
    GrantPermission {
        /// The role
        name: String,
        /// What it may do
        access: Kind,
        #[command(flatten)]
        keys: Keys,
        /// Keys are hexadecimal digits
        #[arg(long)]
        hex: bool,
    },
    /// Takes from a role what it may do with exactly these keys
    RevokePermission {
        /// The role
        name: String,
        #[command(flatten)]
        keys: Keys,
        /// Keys are hexadecimal digits
        #[arg(long)]
        hex: bool,
    },
}

/// What may be done with keys.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Read,
    Write,
    #[value(name = "readwrite")]
    ReadWrite,
}

impl From<Kind> for Access {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Read => Self::Read,
            Kind::Write => Self::Write,
            Kind::ReadWrite => Self::ReadWrite,
        }
    }
}

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let client = global.client()?;
    match arguments.command {
        Command::Add { name } => {
            let answer = client.role_add(&name).await?;
            print_answer(
                out,
                global.json,
                &answer,
                json!({ "role": name }),
                &format!("Role {name} created"),
            )?;
        }
        Command::Delete { name } => {
            let answer = client.role_delete(&name).await?;
            print_answer(
                out,
                global.json,
                &answer,
                json!({ "role": name }),
                &format!("Role {name} deleted"),
            )?;
        }
        Command::Get { name, hex } => {
            let answer = client.role_get(&name).await?;
            let encoding = Encoding::from_flag(hex);
            let permissions: Vec<Value> = answer.value.iter().map(|one| document(one, encoding)).collect();
            let text = describe(&name, &answer.value, encoding);
            let document = json!({ "role": name, "permissions": permissions });
            print_answer(out, global.json, &answer, document, &text)?;
        }
        Command::List => {
            let answer = client.role_list().await?;
            print_answer(
                out,
                global.json,
                &answer,
                json!({ "roles": answer.value }),
                &answer.value.join("\n"),
            )?;
        }
        Command::GrantPermission { name, access, keys, hex } => {
            let (key, range_end) = keys.span(Encoding::from_flag(hex))?;
            let permission = Permission { access: access.into(), key, range_end };
            let answer = client.role_grant_permission(&name, permission).await?;
            print_answer(
                out,
                global.json,
                &answer,
                json!({ "role": name }),
                &format!("Role {name} updated"),
            )?;
        }
        Command::RevokePermission { name, keys, hex } => {
            let encoding = Encoding::from_flag(hex);
            let (key, range_end) = keys.span(encoding)?;
            let what = match range_end.as_ref() {
                [] => format!("key {}", encoding.show(&key)),
                [0] => format!("range [{}, <open ended>", encoding.show(&key)),
                end => format!("range [{}, {})", encoding.show(&key), encoding.show(end)),
            };
            let answer = client.role_revoke_permission(&name, key, range_end).await?;
            let text = format!("Permission of {what} is revoked from role {name}");
            print_answer(out, global.json, &answer, json!({ "role": name }), &text)?;
        }
    }
    Ok(Exit::Ok)
}

fn kind(access: Access) -> &'static str {
    match access {
        Access::Read => "READ",
        Access::Write => "WRITE",
        Access::ReadWrite => "READWRITE",
    }
}

fn document(permission: &Permission, encoding: Encoding) -> Value {
    let mut object = Map::new();
    object.insert("access".into(), kind(permission.access).into());
    encoding.put_json(&mut object, "key", &permission.key);
    encoding.put_json(&mut object, "range_end", &permission.range_end);
    Value::Object(object)
}

/// As etcdctl prints a role.
fn describe(name: &str, permissions: &[Permission], encoding: Encoding) -> String {
    let lines = |wanted: [Access; 2]| {
        let of = permissions.iter().filter(move |one| wanted.contains(&one.access));
        of.flat_map(|one| ["\n\t".to_owned(), range(one, encoding)]).collect::<String>()
    };
    let read = lines([Access::Read, Access::ReadWrite]);
    let write = lines([Access::Write, Access::ReadWrite]);
    format!("Role {name}\nKV Read:{read}\nKV Write:{write}")
}

fn range(permission: &Permission, encoding: Encoding) -> String {
    let Permission { key, range_end, .. } = permission;
    let first = encoding.show(key);
    match range_end.as_ref() {
        [] => first,
        [0] => format!("[{first}, <open ended>"),
        end if is_prefix(key, range_end) => format!("[{first}, {}) (prefix {first})", encoding.show(end)),
        end => format!("[{first}, {})", encoding.show(end)),
    }
}

fn is_prefix(key: &Bytes, range_end: &Bytes) -> bool {
    prefix_end(key) == *range_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_shown_as_etcdctl_shows_it() {
        let permission = |access, key: &'static str, end: &'static str| Permission {
            access,
            key: key.into(),
            range_end: end.into(),
        };
        let permissions = [
            permission(Access::Read, "a", ""),
            permission(Access::ReadWrite, "b/", "b0"),
            permission(Access::Write, "c", "f"),
            permission(Access::Write, "g", "\0"),
        ];
        let shown = describe("r", &permissions, Encoding::Text);
        assert_eq!(
            shown,
            "Role r\nKV Read:\n\ta\n\t[b/, b0) (prefix b/)\nKV Write:\n\t[b/, b0) (prefix b/)\n\t[c, f)\n\t[g, <open ended>"
        );
        let all = permission(Access::ReadWrite, "", "\0");
        assert_eq!(
            describe("root", &[all], Encoding::Text),
            "Role root\nKV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>"
        );
    }
}
