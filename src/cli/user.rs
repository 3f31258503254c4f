//! `setstone user`: users, with the words and habits of etcdctl.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use super::credentials::ask_new;
use super::exit::{Exit, Failure};
use super::output::print_answer;

/// Adds, shows, changes and deletes users
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone user add alice                       asks for a password
  setstone user add alice:secret
  echo secret | setstone user passwd alice
  setstone user grant-role alice readers
  setstone user get alice
  setstone user delete alice")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Adds a user
    Add {
        /// Its name, or NAME:PASSWORD; a password that is not given is asked for
        name: String,
        /// It has no password, and is known by a certificate only
        #[arg(long)]
        no_password: bool,
        /// Its password
        #[arg(long, value_name = "PASSWORD", conflicts_with = "no_password")]
        new_user_password: Option<String>,
    },
    /// Deletes a user
    Delete {
        /// Its name
        name: String,
    },
    /// Shows the roles of a user
    Get {
        /// Its name
        name: String,
    },
    /// Lists all users
    List,
    /// Changes the password of a user; asks for it, or reads a line of standard input
    Passwd {
        /// Its name
        name: String,
    },
    /// Gives a role to a user
    GrantRole {
        /// The user
        name: String,
        /// The role
        role: String,
    },
    /// Takes a role from a user
    RevokeRole {
        /// The user
        name: String,
        /// The role
        role: String,
    },
}

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let client = global.client()?;
    match arguments.command {
        Command::Add { name, no_password, new_user_password } => {
            let (name, password) = new_user(name, no_password, new_user_password)?;
            let answer = client.user_add(&name, password.as_deref()).await?;
            print_answer(
                out,
                global.json,
                &answer,
                json!({ "user": name }),
                &format!("User {name} created"),
            )?;
        }
        Command::Delete { name } => {
            let answer = client.user_delete(&name).await?;
            print_answer(
                out,
                global.json,
                &answer,
                json!({ "user": name }),
                &format!("User {name} deleted"),
            )?;
        }
        Command::Get { name } => {
            let answer = client.user_get(&name).await?;
            let document = json!({ "user": name, "roles": answer.value });
            let text = format!("User: {name}\nRoles: {}", answer.value.join(" "));
            print_answer(out, global.json, &answer, document, text.trim_end())?;
        }
        Command::List => {
            let answer = client.user_list().await?;
            print_answer(
                out,
                global.json,
                &answer,
                json!({ "users": answer.value }),
                &answer.value.join("\n"),
            )?;
        }
        Command::Passwd { name } => {
            let password = ask_new(&name)?;
            let answer = client.user_change_password(&name, &password).await?;
            print_answer(out, global.json, &answer, json!({ "user": name }), "Password updated")?;
        }
        Command::GrantRole { name, role } => {
            let answer = client.user_grant_role(&name, &role).await?;
            let text = format!("Role {role} is granted to user {name}");
            print_answer(out, global.json, &answer, json!({ "user": name, "role": role }), &text)?;
        }
        Command::RevokeRole { name, role } => {
            let answer = client.user_revoke_role(&name, &role).await?;
            let text = format!("Role {role} is revoked from user {name}");
            print_answer(out, global.json, &answer, json!({ "user": name, "role": role }), &text)?;
        }
    }
    Ok(Exit::Ok)
}

/// Name and password of a user that is added.
fn new_user(
    name: String,
    no_password: bool,
    password: Option<String>,
) -> Result<(String, Option<String>), Failure> {
    if no_password {
        return Ok((name, None));
    }
    if password.is_some() {
        return Ok((name, password));
    }
    if let Some((name, password)) = name.split_once(':') {
        if name.is_empty() {
            return Err(Failure::usage("empty user name is not allowed"));
        }
        return Ok((name.to_owned(), Some(password.to_owned())));
    }
    let password = ask_new(&name)?;
    Ok((name, Some(password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_with_or_without_its_password() {
        let user = |name: &str, none, password: Option<&str>| {
            new_user(name.into(), none, password.map(str::to_owned)).map_err(|failure| failure.text)
        };
        let some = |name: &str, password: &str| Ok((name.to_owned(), Some(password.to_owned())));
        assert_eq!(user("a:b:c", false, None), some("a", "b:c"));
        assert_eq!(user("a:b", false, Some("c")), some("a:b", "c"));
        assert_eq!(user("a:b", true, None), Ok(("a:b".into(), None)));
        assert!(user(":b", false, None).is_err());
    }
}
