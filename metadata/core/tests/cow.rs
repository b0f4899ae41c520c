//! The shared ordered collections, beside those of the standard library that they stand for: the same
//! contents after any sequence of changes, trees that keep their promises, and clones that no later change
//! shows in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_meta_core::cow::{CowMap, CowQueue};
use std::collections::{BTreeMap, VecDeque};

/// A sequence of numbers that is the same in each run.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

fn agree(map: &CowMap<u64, u64>, model: &BTreeMap<u64, u64>, around: u64) {
    map.check().unwrap();
    assert_eq!(map.len(), model.len());
    assert!(map.iter().eq(model.iter()) && map.iter().rev().eq(model.iter().rev()));
    assert!(map.range_from(&around).eq(model.range(around..)));
    let (mut both, mut ends) = (map.iter(), model.iter());
    for i in 0..model.len() {
        let (a, b) = if i % 3 == 0 { (both.next_back(), ends.next_back()) } else { (both.next(), ends.next()) };
        assert_eq!(a, b);
    }
    assert_eq!((both.next(), both.next_back()), (None, None));
}

#[test]
fn a_map_holds_what_the_standard_one_holds() {
    for seed in 0..40 {
        let mut d = Draws(seed);
        let (keys, growth) = ([40, 400, 4_000][seed as usize % 3], 30 + d.below(60));
        let (mut map, mut model) = (CowMap::new(), BTreeMap::new());
        for step in 0..3_000u64 {
            // Some seeds grow at the end, as revisions and numbers of records do.
            let k = if seed % 5 == 0 && d.below(3) > 0 { step + keys } else { d.below(keys) };
            match d.below(100) {
                n if n < growth => assert_eq!(map.insert(k, step), model.insert(k, step)),
                n if n < 95 => assert_eq!(map.remove(&k), model.remove(&k)),
                _ => {
                    let (a, b) = (map.get_mut(&k), model.get_mut(&k));
                    assert_eq!(a.is_some(), b.is_some());
                    a.into_iter().chain(b).for_each(|v| *v += 7);
                }
            }
            assert_eq!(map.get(&k), model.get(&k));
            if step % 100 == 0 {
                agree(&map, &model, k);
            }
        }
        // Down to nothing, from one end or at random.
        while let Some(k) =
            model.keys().nth(if seed % 2 == 0 { 0 } else { d.below(model.len().max(1) as u64) as usize }).copied()
        {
            assert_eq!(map.remove(&k), model.remove(&k));
            if model.len() % 64 == 0 {
                agree(&map, &model, k);
            }
        }
        assert!(map.is_empty() && map == CowMap::new());
    }
}

#[test]
fn a_clone_stays_as_it_was() {
    let mut d = Draws(5);
    let mut map: CowMap<u64, u64> = (0..1_000).map(|k| (k * 2, k)).collect();
    let mut kept = Vec::new();
    for step in 0..500 {
        kept.push((map.clone(), map.iter().map(|(k, v)| (*k, *v)).collect::<BTreeMap<_, _>>()));
        let k = d.below(2_000);
        match d.below(2) {
            0 => assert_ne!(map.insert(k, step), Some(step)),
            _ => assert_ne!(map.remove(&k), Some(step)),
        }
        if let Some(v) = map.get_mut(&d.below(2_000)) {
            *v = step;
        }
    }
    for (clone, model) in &kept {
        agree(clone, model, 7);
    }
}

#[test]
fn json_is_that_of_the_standard_collections() {
    let model: BTreeMap<u64, u64> = (0..100).map(|k| (k * 7 % 100, k)).collect();
    let map: CowMap<u64, u64> = model.clone().into_iter().collect();
    let json = serde_json::to_string(&map).unwrap();
    assert_eq!(json, serde_json::to_string(&model).unwrap());
    assert_eq!(serde_json::from_str::<CowMap<u64, u64>>(&json).unwrap(), map);
    let (queue, list): (CowQueue<u64>, VecDeque<u64>) = ((0..100).collect(), (0..100).collect());
    let json = serde_json::to_string(&queue).unwrap();
    assert_eq!(json, serde_json::to_string(&list).unwrap());
    assert_eq!(serde_json::from_str::<CowQueue<u64>>(&json).unwrap(), queue);
}

#[test]
fn a_queue_gives_first_what_came_first() {
    let (mut queue, mut model, mut d) = (CowQueue::new(), VecDeque::new(), Draws(3));
    for step in 0..2_000u64 {
        if d.below(5) > 1 {
            queue.push_back(step);
            model.push_back(step);
        } else {
            assert_eq!(queue.pop_front().as_deref(), model.pop_front().as_ref());
        }
        assert_eq!((queue.len(), queue.front(), queue.back()), (model.len(), model.front(), model.back()));
    }
    assert!(queue.iter().eq(model.iter()) && queue.iter().rev().eq(model.iter().rev()));
    let before = queue.clone();
    queue.clear();
    assert!(queue.is_empty() && before.len() == model.len());
}
