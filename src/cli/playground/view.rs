//! What a playground shows: in a terminal a table that is drawn anew with every change, else a line per pod that changed.
//!
//! The table has the terminal's other screen to itself, so what was there before comes back, whatever way the view ends.
//! The keyboard is left alone: Ctrl-C is a signal as ever. Invariant: a screen that was taken is given back when its [`Screen`] is
//! dropped, a panic included.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use rustix::termios::tcgetwinsize;

use super::members::{Members, Said};
use super::say;
use crate::playground::{ApiMode, DnsMode, Phase, PodStatus, Status};

/// Size of a terminal that does not tell.
const ROWS: usize = 24;
const COLUMNS: u16 = 100;

/// The pods as a table; `width` of a screen on which every row is to be one line.
pub(super) fn table(status: &Status, members: &Members, width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header([
        "POD",
        "PHASE",
        "READY",
        "ROLE",
        "NODE",
        "ADDRESS",
        "RESTARTS",
        "LAST EXIT",
        "LAST DECISION",
    ]);
    let nothing = Said::default();
    for pod in &status.pods {
        // What a pod said that has gone since is not news.
        let said = members.get(&pod.ordinal).filter(|_| pod.phase != Phase::Absent);
        table.add_row(cells(pod, said.unwrap_or(&nothing)));
    }
    if width.is_some() {
        table.row_iter_mut().for_each(|row| {
            row.max_height(1);
        });
    }
    table
}

fn cells(pod: &PodStatus, said: &Said) -> [String; 9] {
    let or_dash =
        |value: Option<String>| value.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    [
        pod.name.clone(),
        pod.phase.to_string(),
        if pod.ready { "yes" } else { "no" }.to_owned(),
        or_dash(Some(said.role.clone())),
        or_dash(Some(said.node.clone())),
        or_dash(pod.address.map(|address| address.to_string())),
        pod.restarts.to_string(),
        or_dash(pod.last_exit.clone()),
        or_dash(Some(said.decision.clone())),
    ]
}

/// What else there is to know, and what is wrong on purpose.
pub(super) fn summary(status: &Status) -> String {
    let mut text =
        format!("client service {}, volumes and logs in {}", status.service, status.data.display());
    for orphan in &status.orphans {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "\nprocess {} of a pod {}-{} that was deleted with force runs on",
            orphan.pid.unwrap_or_default(),
            status.name,
            orphan.ordinal
        );
        if let Some(address) = orphan.address {
            let _ = write!(text, " at {address}");
        }
    }
    match status.dns_mode {
        DnsMode::Up => {}
        DnsMode::Down => text.push_str("\nDNS answers SERVFAIL"),
        DnsMode::Silent => text.push_str("\nDNS does not answer"),
    }
    match status.api_mode {
        ApiMode::Up => {}
        ApiMode::Down => text.push_str("\nthe API server answers 503"),
        ApiMode::Forbidden => text.push_str("\nthe API server answers 403"),
        ApiMode::Silent => text.push_str("\nthe API server does not answer"),
    }
    text
}

/// One line about a pod.
fn line(pod: &PodStatus) -> String {
    let mut line = format!("{}  {}  {}", pod.name, pod.phase, if pod.ready { "ready" } else { "not ready" });
    if let Some(address) = pod.address {
        let _ = write!(line, "  {address}");
    }
    if pod.restarts > 0 {
        let _ = write!(line, "  restarts {}", pod.restarts);
    }
    if let Some(exit) = &pod.last_exit {
        let _ = write!(line, "  last exit: {exit}");
    }
    line
}

/// Shows the pods.
pub(super) enum View {
    /// In a terminal.
    Live {
        /// The terminal.
        screen: Screen,
        /// What is shown above the table.
        introduction: String,
        /// The last remark, shown below it.
        note: String,
    },
    /// A line for each change: those of the last time.
    Plain(Vec<String>),
}

impl View {
    /// Begins, with what a person needs to know first.
    pub(super) fn new(live: bool, introduction: &str) -> io::Result<Self> {
        if live {
            let screen = Screen::take()?;
            return Ok(Self::Live { screen, introduction: introduction.to_owned(), note: String::new() });
        }
        say(introduction)?;
        Ok(Self::Plain(Vec::new()))
    }

    /// Shows how it is now.
    pub(super) fn show(&mut self, status: &Status, members: &Members) -> io::Result<()> {
        match self {
            Self::Live { screen, introduction, note } => {
                let (rows, columns) = Screen::size();
                let table = table(status, members, Some(columns));
                let text = format!("{introduction}\n{table}\n\n{}\n{note}", summary(status));
                screen.draw(&frame(&text, rows, columns))
            }
            Self::Plain(before) => {
                let lines: Vec<String> = status.pods.iter().map(line).collect();
                for line in lines.iter().filter(|line| !before.contains(line)) {
                    say(line)?;
                }
                *before = lines;
                Ok(())
            }
        }
    }

    /// A remark.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Live { note, .. } => {
                text.clone_into(note);
                Ok(())
            }
            Self::Plain(_) => say(text),
        }
    }
}

/// What is drawn: as many lines as fit, each no longer than the screen and cleared to its end, and nothing below.
fn frame(text: &str, rows: usize, columns: u16) -> String {
    let mut frame = String::from("\x1b[H");
    for (number, line) in text.lines().take(rows).enumerate() {
        if number > 0 {
            frame.push_str("\r\n");
        }
        frame.extend(line.chars().take(columns.into()));
        frame.push_str("\x1b[K");
    }
    frame.push_str("\x1b[J");
    frame
}

/// The terminal's other screen.
pub(super) struct Screen(());

impl Screen {
    /// Takes it, and hides the cursor.
    fn take() -> io::Result<Self> {
        let screen = Self(());
        screen.draw("\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    /// Its rows and columns.
    fn size() -> (usize, u16) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col),
            _ => (ROWS, COLUMNS),
        }
    }

    #[allow(clippy::unused_self)]
    fn draw(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        let _ = self.draw("\x1b[?25h\x1b[?1049l");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::playground::tests::status;

    #[test]
    fn a_table_and_lines_say_how_the_pods_are() {
        let said = Said { role: "leader".to_owned(), node: "0#1".to_owned(), decision: "resumed".to_owned() };
        let members = Members::from([(0, said.clone()), (2, said)]);
        let table = table(&status(), &members, Some(200)).to_string();
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[1],
            ["setstone-0", "Running", "yes", "leader", "0#1", "127.70.80.10", "0", "-", "resumed"]
        );
        assert_eq!(
            words[2],
            ["setstone-1", "CrashLoopBackOff", "no", "-", "-", "127.70.80.11", "2", "SIGKILL", "-"]
        );
        assert_eq!(words[3], ["setstone-2", "Absent", "no", "-", "-", "-", "0", "-", "-"]);
        let lines: Vec<String> = status().pods.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "setstone-0  Running  ready  127.70.80.10",
                "setstone-1  CrashLoopBackOff  not ready  127.70.80.11  restarts 2  last exit: SIGKILL",
                "setstone-2  Absent  not ready",
            ]
        );
    }

    #[test]
    fn what_is_wrong_on_purpose_is_said() {
        let mut status = status();
        assert_eq!(summary(&status).lines().count(), 1);
        status.dns_mode = DnsMode::Down;
        status.api_mode = ApiMode::Silent;
        status.orphans.push(crate::playground::OrphanStatus {
            ordinal: 1,
            uid: 2,
            address: Some([127, 70, 80, 11].into()),
            pid: Some(7),
        });
        let text = summary(&status);
        for needed in [
            "process 7 of a pod setstone-1 that was deleted with force runs on at 127.70.80.11",
            "DNS answers SERVFAIL",
            "the API server does not answer",
        ] {
            assert!(text.contains(needed), "{needed:?} is missing in\n{text}");
        }
    }

    #[test]
    fn a_frame_fits_the_screen() {
        let frame = frame("one\nlonger than that\nthree\nfour", 3, 6);
        assert_eq!(frame, "\x1b[Hone\x1b[K\r\nlonger\x1b[K\r\nthree\x1b[K\x1b[J");
        let long = Members::from([(0, Said { decision: "word ".repeat(100), ..Said::default() })]);
        let table = table(&status(), &long, Some(120)).to_string();
        assert_eq!(table.lines().count(), 4, "a row is a line:\n{table}");
    }
}
