//! A group and its rows: what was done, what was seen, what was allowed; and what is kept of a failure.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::kubectl::Tool;
use super::world::{Seen, Step, World};

/// One line of the table.
struct Row {
    event: String,
    /// Until what was to be so, was so.
    took: Option<Duration>,
    seen: Option<Seen>,
    note: String,
    failure: Option<String>,
}

/// What a row allows.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Longest time without an acknowledged write.
    pub gap: Option<Duration>,
    /// Whether no request may fail.
    pub no_failures: bool,
}

/// Writes go on within three seconds.
pub const SHORT_GAP: Allowed = Allowed { gap: Some(Duration::from_secs(3)), no_failures: false };
/// No request fails, with the client's retry.
pub const NO_FAILURES: Allowed = Allowed { gap: Some(Duration::from_secs(3)), no_failures: true };
/// The store is away meanwhile.
pub const ANYTHING: Allowed = Allowed { gap: None, no_failures: false };

/// One group while it runs, and what came of it.
pub struct Run {
    group: &'static str,
    kubectl: Tool,
    pub cluster: Option<Tool>,
    rows: Vec<Row>,
    kept: PathBuf,
    world: Option<World>,
    installed: u32,
}

impl Run {
    pub fn new(group: &'static str, kubectl: Tool, cluster: Option<Tool>) -> Self {
        let kept = std::env::var("KEPT").unwrap_or_else(|_| "target/kubernetes-failures".into());
        Self { group, kubectl, cluster, rows: Vec::new(), kept: kept.into(), world: None, installed: 0 }
    }

    /// Says something at once; others may be speaking between the lines.
    fn say(&self, text: &str) {
        println!("{:<14} {text}", self.group);
    }

    /// Goes through the steps of the group, and keeps what is to be known if one fails.
    pub fn through(mut self, steps: fn(&mut Self) -> Step) -> Self {
        self.say("== begins");
        let begin = Instant::now();
        if let Err(error) = steps(&mut self) {
            self.say(&format!("FAILED: {error}"));
            let directory = self.kept.join(self.group);
            match self.world.as_ref().map(|world| keep(world, &directory)) {
                Some(Ok(())) => self.say(&format!("kept in {}", directory.display())),
                Some(Err(error)) => {
                    self.say(&format!("what is to be known of it could not be kept: {error}"))
                }
                None => {}
            }
            // A row that failed is there already.
            if self.rows.last().is_none_or(|row| row.failure.is_none()) {
                let row = Row {
                    event: self.group.into(),
                    took: None,
                    seen: None,
                    note: String::new(),
                    failure: Some(error),
                };
                self.rows.push(row);
            }
        }
        if let Some(world) = self.world.take() {
            world.remove();
        }
        self.say(&format!("== ended after {} s", begin.elapsed().as_secs()));
        self
    }

    /// Makes another namespace of this group, whatever was there before.
    pub fn prepare(&mut self, app: &str) -> Step<&mut World> {
        if let Some(before) = self.world.take() {
            before.remove();
        }
        // Another one each time: a name server remembers where the pods of the last one were.
        self.installed += 1;
        let namespace = format!("setstone-{}-{}", self.group, self.installed);
        Ok(self.world.insert(World::new(&self.kubectl, &namespace, app)?))
    }

    /// Installs a folder of manifests in another namespace.
    pub fn install(&mut self, folder: &str, app: &str, edit: &dyn Fn(&mut Value)) -> Step {
        self.prepare(app)?.install(folder, edit)
    }

    pub fn world(&self) -> Step<&World> {
        self.world.as_ref().ok_or_else(|| "nothing is installed".into())
    }

    /// One row: `what` happens while the load runs, and the load sees no more of it than is allowed. `what` returns how long it took.
    pub fn row(
        &mut self,
        event: &str,
        allowed: Allowed,
        what: impl FnOnce(&World) -> Step<Option<Duration>>,
    ) -> Step {
        self.say(&format!("-- {event}"));
        let world = self.world()?;
        let begin = Instant::now();
        let result = world.mark().and_then(|mark| {
            let took = what(world)?;
            world.serves(Duration::from_secs(30))?;
            Ok((took, world.seen(mark)?))
        });
        let (took, seen, failure) = match result {
            Ok((took, seen)) => {
                let failure = wrong(&seen, allowed);
                (took, Some(seen), failure)
            }
            Err(error) => (None, None, Some(error)),
        };
        if let Some(seen) = &seen {
            let errors = if seen.errors.is_empty() { String::new() } else { format!("; {:?}", seen.errors) };
            self.say(&format!(
                "   took {took:?} of {:?}; gap {} ms, slowest write {} ms, {} acknowledged, {} failed, {} unknown{errors}",
                begin.elapsed(),
                seen.gap,
                seen.slowest,
                seen.acknowledged,
                seen.failed,
                seen.unknown
            ));
        }
        self.push(event, took, seen, String::new(), failure)
    }

    /// A row without a load.
    pub fn fact(&mut self, event: &str, took: Option<Duration>, note: &str) {
        self.say(&format!("-- {event}: {took:?} {note}"));
        // Nothing failed.
        let _ = self.push(event, took, None, note.into(), None);
    }

    fn push(
        &mut self,
        event: &str,
        took: Option<Duration>,
        seen: Option<Seen>,
        note: String,
        failure: Option<String>,
    ) -> Step {
        let result = failure.clone().map_or(Ok(()), Err);
        self.rows.push(Row { event: event.into(), took, seen, note, failure });
        result
    }

    /// Ends the load: all that it saw is checked.
    pub fn check(&mut self) -> Step {
        let verdict = self.world()?.finish_load()?;
        self.fact(&format!("{}: all answers", self.group), None, &verdict);
        Ok(())
    }

    pub fn left_out(&mut self, event: &str) {
        self.fact(event, None, "left out: CLUSTER names no script");
    }

    pub fn failures(&self) -> usize {
        self.rows.iter().filter(|row| row.failure.is_some()).count()
    }
}

/// The table of all groups, in Markdown.
pub fn print(runs: &[Run]) {
    println!(
        "\n| Event | Done after, s | Longest gap, s | Slowest write, s | Failed; unknown | |\n|---|---|---|---|---|---|"
    );
    let seconds =
        |duration: Option<Duration>| duration.map_or("-".into(), |d| format!("{:.1}", d.as_secs_f64()));
    for row in runs.iter().flat_map(|run| &run.rows) {
        let of = |get: fn(&Seen) -> u64| row.seen.as_ref().map(|seen| Duration::from_millis(get(seen)));
        let failed =
            row.seen.as_ref().map_or("-".into(), |seen| format!("{}; {}", seen.failed, seen.unknown));
        let last = row
            .failure
            .as_ref()
            .map_or(row.note.clone(), |why| format!("FAILED: {}", why.replace('\n', " ")));
        println!(
            "| {} | {} | {} | {} | {failed} | {last} |",
            row.event,
            seconds(row.took),
            seconds(of(|seen| seen.gap)),
            seconds(of(|seen| seen.slowest))
        );
    }
    let rows: usize = runs.iter().map(|run| run.rows.len()).sum();
    let failed: Vec<_> = runs.iter().filter(|run| run.failures() > 0).map(|run| run.group).collect();
    println!("\n{rows} rows in {} groups; failed groups: {failed:?}", runs.len());
}

fn wrong(seen: &Seen, allowed: Allowed) -> Option<String> {
    if !seen.violations.is_empty() {
        return Some(format!("{:?}", seen.violations));
    }
    if let Some(limit) = allowed.gap.filter(|limit| Duration::from_millis(seen.gap) > *limit) {
        return Some(format!("no write for {} ms, more than {limit:?}", seen.gap));
    }
    let failed = seen.failed + seen.unknown + seen.failed_reads;
    (allowed.no_failures && failed > 0).then(|| format!("{failed} requests failed: {:?}", seen.errors))
}

/// Writes down how everything is: logs of all containers, also of those before them, what the members say, and the objects.
fn keep(world: &World, directory: &PathBuf) -> Step {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let write = |name: &str, text: Step<String>| {
        let text = text.unwrap_or_else(|error| error);
        std::fs::write(directory.join(name), text).map_err(|error| error.to_string())
    };
    let objects = "pods,statefulsets,pvc,endpoints,configmaps,pdb,roles,rolebindings";
    write("objects.yaml", world.kubectl.run(&["get", objects, "-o", "yaml"]))?;
    write("kubernetes-events.txt", world.kubectl.run(&["get", "events", "--sort-by=.lastTimestamp"]))?;
    write("load.txt", world.seen(0).map(|seen| format!("{seen:#?}")))?;
    for pod in world.pods()? {
        let name = pod.name.as_str();
        write(&format!("{name}.log"), world.kubectl.run(&["logs", name]))?;
        write(&format!("{name}.previous.log"), world.kubectl.run(&["logs", name, "--previous"]))?;
        for command in ["status", "events", "members"] {
            let text = world.kubectl.run(&["exec", name, "--", "setstone", command]);
            write(&format!("{name}.{command}.txt"), text)?;
        }
    }
    Ok(())
}
