//! Room on the page: who gets lines of its own where there are too many. Pure.
//!
//! Prometheus keeps every line in memory, of this node and of all others, so the lines of a page are bounded
//! ([`MOST_SERIES`]). Where not all fit, those who matter least are shown together, and how many lines that saved is
//! told.

/// Lines of a page at most.
pub const MOST_SERIES: usize = 20_000;

/// Who gets lines of its own, by place in the list that was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Those who get them, in their order.
    pub own: Vec<usize>,
    /// The others, in their order.
    pub rest: Vec<usize>,
    /// Lines that the others would have had.
    pub left_out: usize,
}

/// Chooses among candidates, each told by (lines that it needs, weight). At most `most` are chosen, with at most `room`
/// lines together; who has more weight is chosen first, among equals who stands first.
pub fn choose(candidates: &[(usize, u64)], room: usize, most: usize) -> Chosen {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(candidates[*i].1));
    let (mut chosen, mut used) = (Chosen::default(), 0);
    for i in order {
        let lines = candidates[i].0;
        if chosen.own.len() < most && used + lines <= room {
            used += lines;
            chosen.own.push(i);
        } else {
            chosen.left_out += lines;
            chosen.rest.push(i);
        }
    }
    chosen.own.sort_unstable();
    chosen.rest.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_fit_are_chosen_in_their_order() {
        let c = choose(&[(5, 1), (5, 9), (5, 0)], 15, 3);
        assert_eq!(c, Chosen { own: vec![0, 1, 2], rest: vec![], left_out: 0 });
        assert_eq!(choose(&[], 0, 0), Chosen::default());
    }

    #[test]
    fn the_least_weight_is_left_out_and_counted() {
        let c = choose(&[(5, 1), (6, 9), (7, 0), (5, 1)], 16, 9);
        assert_eq!(c, Chosen { own: vec![0, 1, 3], rest: vec![2], left_out: 7 });
        let c = choose(&[(5, 1), (6, 9), (7, 0), (5, 1)], 100, 2);
        assert_eq!(c, Chosen { own: vec![0, 1], rest: vec![2, 3], left_out: 12 });
        // One that needs too much leaves its room to others.
        let c = choose(&[(50, 9), (6, 1)], 10, 9);
        assert_eq!(c, Chosen { own: vec![1], rest: vec![0], left_out: 50 });
    }
}
