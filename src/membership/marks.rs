//! A disk that holds less than it once acknowledged as durable was rolled back. Pure.

use std::fmt;

use super::disk::{Held, LogId, Vote};
use crate::mvcc::cluster::Mark;

/// How a disk is below a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    mark: Mark,
    at_boot: Held,
    boot: u64,
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it once acknowledged vote {}/{:x} and log {}/{} in boot {}, and began boot {} with vote {}/{:x} and log {}/{}",
            self.mark.vote_term,
            self.mark.vote_node,
            self.mark.log_term,
            self.mark.log_index,
            self.mark.boot,
            self.boot,
            self.at_boot.vote.term,
            self.at_boot.vote.node,
            self.at_boot.last.term,
            self.at_boot.last.index,
        )
    }
}

/// Whether a disk that held `at_boot` when its boot number `boot` began is below `mark`.
///
/// What this boot itself acknowledged does not count; so once it has `taken_part`, marks of its own boot say nothing. Before that
/// it acknowledged nothing, and a mark of its boot number is one of another history.
pub fn below_mark(at_boot: Held, boot: u64, taken_part: bool, mark: &Mark) -> Option<Below> {
    let vote = Vote { term: mark.vote_term, node: mark.vote_node };
    let last = LogId { term: mark.log_term, index: mark.log_index };
    let lower = at_boot.vote < vote || (at_boot.vote == vote && at_boot.last < last);
    let below = match mark.boot.cmp(&boot) {
        // A boot that this disk does not know of.
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => lower && !taken_part,
        std::cmp::Ordering::Less => lower,
    };
    below.then_some(Below { mark: *mark, at_boot, boot })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Held = Held { vote: Vote { term: 5, node: 1 }, last: LogId { term: 4, index: 100 } };

    fn mark(boot: u64, vote: (u64, u64), log: (u64, u64)) -> Mark {
        Mark { boot, vote_term: vote.0, vote_node: vote.1, log_term: log.0, log_index: log.1 }
    }

    fn is_below(taken_part: bool, mark: &Mark) -> bool {
        below_mark(HELD, 7, taken_part, mark).is_some()
    }

    #[test]
    fn a_lower_vote_or_a_lower_log_under_the_same_vote_is_below() {
        assert!(!is_below(false, &mark(6, (5, 1), (4, 100))));
        assert!(is_below(false, &mark(6, (5, 1), (4, 101))));
        assert!(is_below(false, &mark(6, (5, 1), (5, 1))));
        assert!(is_below(false, &mark(6, (6, 0), (4, 1))));
        assert!(is_below(false, &mark(6, (5, 2), (4, 1))));
    }

    #[test]
    fn under_a_higher_vote_the_log_may_have_been_cut() {
        assert!(!is_below(false, &mark(6, (4, 9), (4, 200))));
    }

    #[test]
    fn what_this_boot_acknowledged_does_not_count() {
        assert!(!is_below(true, &mark(7, (9, 1), (9, 900))));
        assert!(is_below(false, &mark(7, (9, 1), (9, 900))));
        // What an earlier boot acknowledged still does.
        assert!(is_below(true, &mark(6, (9, 1), (9, 900))));
    }

    #[test]
    fn a_boot_that_is_still_to_come_is_another_history() {
        assert!(is_below(false, &mark(8, (1, 0), (0, 0))));
        assert!(is_below(true, &mark(8, (1, 0), (0, 0))));
    }
}
