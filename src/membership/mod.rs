//! Who should be in: what to do at start, what is ready, what to do at stop. May know the peers and their answers; does not
//! know how consensus works, only what it says of itself.
//!
//! Pure, values in and values out (DESIGN section 5):
//! * `disk`: what a disk is, and what a pod answers when it is asked
//! * `marks`: a disk that holds less than it once acknowledged
//! * `start`: what to do at start
//! * `admission`: whether a disk may join
//! * `by_hand`: members that come and go by hand, outside a `StatefulSet`
//! * `plan`, `scale`: which change of the membership comes next
//! * `resume`: when a member's disk may take part again
//! * `recovery`: a majority of the disks is gone for good
//! * `wait`: what a pod waits for, in words, and which command helps
//! * `ready`: the answers to the probes
//! * `stop`: whether stopping is leaving
//! * `explain`: what the leader's plan sees, does and waits for, in words
//!
//! At the edge:
//! * `wire`: the same values in protobuf
//! * `service`: the gRPC service that answers before consensus exists
//! * `locate`: a process without an identity asks which member it is, outside a `StatefulSet`
//! * `joining`: a disk asks the leader to be admitted
//! * `size`: the desired size, from its source
//! * `operator`: changes that a client asks for (its decision is pure)
//! * `reconcile`: carries out the plan on the leader
//! * `journal`: what this pod decided, told to the cluster's event log
//! * `at_leader`: the leader's service, as a member knows it
//! * `leave`: a member whose pod does not come back asks to be retired
//! * `starter`: asks the others, decides again with every answer, and founds the first cluster

mod admission;
mod asking;
mod at_leader;
mod by_hand;
mod disk;
mod explain;
mod founding;
mod joining;
mod journal;
mod leave;
mod local;
mod locate;
mod marks;
mod operator;
mod plan;
pub mod ready;
mod reconcile;
mod recovery;
mod resume;
mod scale;
mod service;
mod size;
mod start;
mod starter;
mod stop;
#[cfg(test)]
mod transcripts;
mod wait;
mod wire;

pub use admission::{AdmitRefusal, Applicant, may_join};
pub use by_hand::Rules;
pub use disk::{Answer, Answers, Asked, ConsensusView, Described, Disk, Held, LogId, Service, Vote, What};
pub use journal::{Journal, JournalKeeper};
pub use leave::leave;
pub use local::{Admitted, Gate, Lead, Local, PrepareRefusal, Prepared};
pub use locate::{Located, locate, publish};
pub use marks::below_mark;
pub use operator::{Operate, Operator, Update, Wish, WishRefusal};
pub use plan::{Change, Leading, plan};
pub use ready::{Readiness, readiness};
pub use reconcile::{Outlook, Reconciler, Retiring};
pub use service::{MembershipService, Own};
pub use size::{Size, SizeKeeper, SizeSource};
pub use start::{Action, Desired, Facts, Founder, decide, whom_to_ask};
pub use starter::{StartState, Starter, StarterConfig, Step};
pub use stop::{Verdict, verdict};
pub use wait::{Needed, needed};

pub use crate::identity::{Member, Membership};
