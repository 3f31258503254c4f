//! Who calls: `--user` and `--password`, as etcdctl has them, and passwords that are typed.

use std::io::{BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::exit::Failure;
use crate::client::Credentials;

/// Longest line that is read for a password, in bytes. bcrypt looks at 72.
const LINE_BYTES: u64 = 4_096;

/// Credentials from `--user NAME[:PASSWORD]` and `--password`. A password that is nowhere is asked for.
pub(super) fn credentials(
    user: Option<&str>,
    password: Option<&str>,
) -> Result<Option<Credentials>, Failure> {
    let (name, given) = match (user, password) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(Failure::usage("--password is of no use without --user")),
        // With a password of its own the name may hold colons.
        (Some(user), Some(password)) => (user, Some(password.to_owned())),
        (Some(user), None) => match user.split_once(':') {
            Some((name, password)) => (name, Some(password.to_owned())),
            None => (user, None),
        },
    };
    if name.is_empty() {
        return Err(Failure::usage("--user names nobody; write NAME or NAME:PASSWORD"));
    }
    let password = match given {
        Some(password) => password,
        None => ask("Password: ")?,
    };
    Ok(Some(Credentials::new(name, password)))
}

/// A password for a user, typed twice where it is typed.
pub(super) fn ask_new(user: &str) -> Result<String, Failure> {
    let password = ask(&format!("Password of {user}: "))?;
    if std::io::stdin().is_terminal()
        && ask(&format!("Type password of {user} again for confirmation: "))? != password
    {
        return Err(Failure::usage("given passwords are different"));
    }
    Ok(password)
}

/// One line of standard input, without its end. Where somebody types it, it is asked for, and not shown.
pub(super) fn ask(prompt: &str) -> Result<String, Failure> {
    let input = std::io::stdin();
    let shown = if input.is_terminal() {
        eprint!("{prompt}");
        std::io::stderr().flush()?;
        Some(Hidden::new()?)
    } else {
        None
    };
    let mut line = String::new();
    let read = std::io::Read::take(input.lock(), LINE_BYTES).read_line(&mut line)?;
    if shown.is_some() {
        eprintln!();
    }
    drop(shown);
    if read == 0 {
        return Err(Failure::usage("a password is needed, and standard input has ended"));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// What is typed is not shown while this lives.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Result<Self, Failure> {
        let input = std::io::stdin();
        let before = tcgetattr(&input).map_err(std::io::Error::from)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &hidden).map_err(std::io::Error::from)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // There is nothing better to do if it fails.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_password_are_told_apart() {
        let shown = |user, password| {
            credentials(user, password).map(|known| known.map(|known| known.parts())).map_err(|e| e.text)
        };
        let pair = |name: &str, password: &str| Ok(Some((name.to_owned(), password.to_owned())));
        assert_eq!(shown(None, None), Ok(None));
        assert_eq!(shown(Some("root:pw"), None), pair("root", "pw"));
        assert_eq!(shown(Some("root:p:w"), None), pair("root", "p:w"));
        assert_eq!(shown(Some("root:"), None), pair("root", ""));
        assert_eq!(shown(Some("root"), Some("p:w")), pair("root", "p:w"));
        assert_eq!(shown(Some("a:b"), Some("pw")), pair("a:b", "pw"));
        assert!(shown(None, Some("pw")).is_err());
        assert!(shown(Some(":pw"), None).is_err());
        assert!(shown(Some(""), Some("pw")).is_err());
    }
}
