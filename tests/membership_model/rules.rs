//! The crate's pure functions, as the model calls them; and mistakes that can be put in their place, which the model must find.

use setstone::membership::{Action, Answer, Answers, Change, Desired, Disk, Facts, Leading, decide, plan};

/// A mistake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mistake {
    /// The crate as it is.
    #[default]
    None,
    /// A pod that hears nobody takes that for everybody's answer.
    SilenceIsEverybody,
    /// A member's disk takes part again without a quorum's answer.
    ResumeWithoutQuorum,
    /// Marks and boots are not looked at.
    IgnoreMarks,
    /// A voter that does not answer is taken out.
    SilenceIsRemoval,
    /// Every member counts as answering and caught up.
    EverybodyIsFit,
    /// A size that cannot be read counts as one pod.
    SizeUnknownIsOne,
    /// A pod without a leader is never ready.
    NeverReadyWithoutLeader,
}

/// The functions, with one mistake at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules(pub Mistake);

impl Rules {
    pub fn decide(self, disk: &Disk, answers: &Answers, facts: &Facts) -> Action {
        let (mut answers, mut facts) = (answers.clone(), facts.clone());
        match self.0 {
            Mistake::SilenceIsEverybody => {
                answers.pods.retain(|_, asked| matches!(asked.answer, Answer::Described(_)));
                (facts.expected, facts.desired) = (0, Desired::NotUsed);
            }
            Mistake::IgnoreMarks => {
                for described in described(&mut answers) {
                    described.marks.clear();
                    described.seen.clear();
                }
            }
            _ => {}
        }
        match (self.0, decide(disk, &answers, &facts)) {
            (Mistake::ResumeWithoutQuorum, Action::HoldResume { .. }) => Action::Release,
            (_, action) => action,
        }
    }

    pub fn plan(self, mut view: Leading) -> Option<Change> {
        match self.0 {
            Mistake::SilenceIsRemoval => {
                let voters = view.configs.last()?;
                let answering = voters & &view.answering;
                if answering != *voters && view.configs.len() == 1 && view.committed {
                    return Some(Change::Voters(answering));
                }
            }
            Mistake::EverybodyIsFit => {
                view.answering.clone_from(&view.members);
                view.caught_up.clone_from(&view.members);
            }
            Mistake::SizeUnknownIsOne => {
                if matches!(view.desired, Desired::Unknown(_)) {
                    view.desired = Desired::Known(setstone::identity::OrdinalRange { start: 0, size: 1 });
                }
            }
            _ => {}
        }
        plan(&view)
    }

    pub fn ready_without_leader(self) -> bool {
        self.0 != Mistake::NeverReadyWithoutLeader
    }
}

fn described(answers: &mut Answers) -> impl Iterator<Item = &mut Disk> {
    answers.pods.values_mut().filter_map(|asked| match &mut asked.answer {
        Answer::Described(described) => Some(&mut described.disk),
        _ => None,
    })
}
