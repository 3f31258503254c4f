//! Who is interested in a key: single keys in a map, ranges in a balanced tree whose nodes know how far their subtrees reach, so
//! that an event finds its `m` watched ranges among `n` in about `m · log n` steps, whatever the ranges are.

// The nodes live in boxes, which are moved and never unpacked.
#![allow(clippy::unnecessary_box_returns)]

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::watching::WatchedKeys;

/// A value for each set of keys that somebody watches.
#[derive(Debug)]
pub struct Interests<T> {
    keys: BTreeMap<Arc<[u8]>, T>,
    ranges: Tree<T>,
    count: usize,
}

impl<T> Default for Interests<T> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), ranges: None, count: 0 }
    }
}

impl<T: Default> Interests<T> {
    /// Nobody is interested in anything.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value of these keys, which is made if it is not there.
    pub fn entry(&mut self, keys: &WatchedKeys) -> &mut T {
        match keys {
            WatchedKeys::One(key) => {
                let count = &mut self.count;
                self.keys.entry(key.clone()).or_insert_with(|| {
                    *count += 1;
                    T::default()
                })
            }
            WatchedKeys::Range(from, to) => {
                let place = Place { from: from.clone(), to: to.clone() };
                if find(&mut self.ranges, &place).is_none() {
                    let node = Node::new(place.clone());
                    self.ranges = Some(insert(self.ranges.take(), node));
                    self.count += 1;
                }
                // It was inserted just now, so a throw-away is never made.
                find_or(&mut self.ranges, place)
            }
        }
    }

    /// The value of these keys, if there is one.
    pub fn get_mut(&mut self, keys: &WatchedKeys) -> Option<&mut T> {
        match keys {
            WatchedKeys::One(key) => self.keys.get_mut(key),
            WatchedKeys::Range(from, to) => {
                find(&mut self.ranges, &Place { from: from.clone(), to: to.clone() })
            }
        }
    }

    /// Forgets these keys.
    pub fn remove(&mut self, keys: &WatchedKeys) {
        let removed = match keys {
            WatchedKeys::One(key) => self.keys.remove(key).is_some(),
            WatchedKeys::Range(from, to) => {
                let place = Place { from: from.clone(), to: to.clone() };
                let (rest, removed) = remove(self.ranges.take(), &place);
                self.ranges = rest;
                removed
            }
        };
        self.count -= usize::from(removed);
    }

    /// Visits the values of all that contain `key`.
    pub fn visit(&mut self, key: &[u8], visit: &mut dyn FnMut(&mut T)) {
        if let Some(value) = self.keys.get_mut(key) {
            visit(value);
        }
        stab(&mut self.ranges, key, visit);
    }
}

/// An AVL tree of ranges. Its depth, and so the recursion below, is at most 1.44 times the logarithm of its size.
type Tree<T> = Option<Box<Node<T>>>;

/// A range; ordered by begin, then by end, no end being the last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    from: Arc<[u8]>,
    to: Option<Arc<[u8]>>,
}

#[derive(Debug)]
struct Node<T> {
    place: Place,
    /// The greatest end in this subtree; `None`: no end.
    reach: Option<Arc<[u8]>>,
    height: u8,
    left: Tree<T>,
    right: Tree<T>,
    value: T,
}

/// Compares ends, of which none is the greatest.
fn compare_ends(a: Option<&Arc<[u8]>>, b: Option<&Arc<[u8]>>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

impl Place {
    fn compare(&self, other: &Self) -> Ordering {
        self.from.cmp(&other.from).then_with(|| compare_ends(self.to.as_ref(), other.to.as_ref()))
    }
}

impl<T: Default> Node<T> {
    fn new(place: Place) -> Box<Self> {
        let reach = place.to.clone();
        Box::new(Self { place, reach, height: 1, left: None, right: None, value: T::default() })
    }
}

impl<T> Node<T> {
    fn update(&mut self) {
        self.height = 1 + height(self.left.as_deref()).max(height(self.right.as_deref()));
        let mut reach = self.place.to.as_ref();
        for child in [&self.left, &self.right].into_iter().flatten() {
            if compare_ends(child.reach.as_ref(), reach).is_gt() {
                reach = child.reach.as_ref();
            }
        }
        self.reach = reach.cloned();
    }
}

fn height<T>(tree: Option<&Node<T>>) -> u8 {
    tree.map_or(0, |node| node.height)
}

fn rotate_right<T>(mut node: Box<Node<T>>) -> Box<Node<T>> {
    let Some(mut top) = node.left.take() else { return node };
    node.left = top.right.take();
    node.update();
    top.right = Some(node);
    top.update();
    top
}

fn rotate_left<T>(mut node: Box<Node<T>>) -> Box<Node<T>> {
    let Some(mut top) = node.right.take() else { return node };
    node.right = top.left.take();
    node.update();
    top.left = Some(node);
    top.update();
    top
}

/// Makes the heights of the children, which differ by two at most, differ by one at most.
fn balance<T>(mut node: Box<Node<T>>) -> Box<Node<T>> {
    node.update();
    let (left, right) = (height(node.left.as_deref()), height(node.right.as_deref()));
    if left > right + 1 {
        node.left = node.left.map(|child| {
            if height(child.left.as_deref()) < height(child.right.as_deref()) {
                rotate_left(child)
            } else {
                child
            }
        });
        rotate_right(node)
    } else if right > left + 1 {
        node.right = node.right.map(|child| {
            if height(child.right.as_deref()) < height(child.left.as_deref()) {
                rotate_right(child)
            } else {
                child
            }
        });
        rotate_left(node)
    } else {
        node
    }
}

fn insert<T>(tree: Tree<T>, new: Box<Node<T>>) -> Box<Node<T>> {
    let Some(mut node) = tree else { return new };
    match new.place.compare(&node.place) {
        Ordering::Less => node.left = Some(insert(node.left.take(), new)),
        _ => node.right = Some(insert(node.right.take(), new)),
    }
    balance(node)
}

/// The rest, and whether `place` was there.
fn remove<T>(tree: Tree<T>, place: &Place) -> (Tree<T>, bool) {
    let Some(mut node) = tree else { return (None, false) };
    let removed;
    match place.compare(&node.place) {
        Ordering::Less => (node.left, removed) = remove(node.left.take(), place),
        Ordering::Greater => (node.right, removed) = remove(node.right.take(), place),
        Ordering::Equal => {
            return (
                match (node.left.take(), node.right.take()) {
                    (None, child) | (child, None) => child,
                    (left, Some(right)) => {
                        let (rest, mut first) = take_first(right);
                        (first.left, first.right) = (left, rest);
                        Some(balance(first))
                    }
                },
                true,
            );
        }
    }
    (Some(balance(node)), removed)
}

/// The rest, and the first node.
fn take_first<T>(mut node: Box<Node<T>>) -> (Tree<T>, Box<Node<T>>) {
    match node.left.take() {
        None => (node.right.take(), node),
        Some(left) => {
            let (rest, first) = take_first(left);
            node.left = rest;
            (Some(balance(node)), first)
        }
    }
}

fn find<'a, T>(tree: &'a mut Tree<T>, place: &Place) -> Option<&'a mut T> {
    let node = tree.as_mut()?;
    match place.compare(&node.place) {
        Ordering::Less => find(&mut node.left, place),
        Ordering::Greater => find(&mut node.right, place),
        Ordering::Equal => Some(&mut node.value),
    }
}

/// The value of `place`; where there is none, a leaf is put, which leaves the tree a tree.
fn find_or<T: Default>(tree: &mut Tree<T>, place: Place) -> &mut T {
    let node = tree.get_or_insert_with(|| Node::new(place.clone()));
    match place.compare(&node.place) {
        Ordering::Less => find_or(&mut node.left, place),
        Ordering::Greater => find_or(&mut node.right, place),
        Ordering::Equal => &mut node.value,
    }
}

fn stab<T>(tree: &mut Tree<T>, key: &[u8], visit: &mut dyn FnMut(&mut T)) {
    let Some(node) = tree else { return };
    if node.reach.as_ref().is_some_and(|reach| **reach <= *key) {
        return;
    }
    stab(&mut node.left, key, visit);
    if *node.place.from <= *key {
        if node.place.to.as_ref().is_none_or(|to| *key < **to) {
            visit(&mut node.value);
        }
        stab(&mut node.right, key, visit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn depth<T>(tree: Option<&Node<T>>) -> usize {
        tree.map_or(0, |node| 1 + depth(node.left.as_deref()).max(depth(node.right.as_deref())))
    }

    #[test]
    fn ranges_that_come_in_order_make_no_deep_tree_and_few_are_looked_at() {
        let mut interests: Interests<u32> = Interests::default();
        for n in 0..10_000_u32 {
            let keys = WatchedKeys::new(format!("{n:05}/").as_bytes(), format!("{n:05}0").as_bytes());
            *interests.entry(&keys.unwrap()) = n;
        }
        assert!(depth(interests.ranges.as_deref()) <= 20);
        let mut found = Vec::new();
        interests.visit(b"04711/x", &mut |n| found.push(*n));
        assert_eq!(found, [4_711]);
    }

    fn keys() -> impl Strategy<Value = WatchedKeys> {
        (0..12_u8, 0..14_u8).prop_map(|(key, end)| {
            let end = if end == 13 {
                vec![0]
            } else if end == 12 {
                vec![]
            } else {
                vec![end + 1]
            };
            WatchedKeys::new(&[key + 1], &end).unwrap_or_else(|_| WatchedKeys::new(&[key + 1], &[]).unwrap())
        })
    }

    proptest! {
        #[test]
        fn a_key_finds_what_contains_it(steps in prop::collection::vec((keys(), any::<bool>()), 0..80)) {
            let mut interests: Interests<Option<WatchedKeys>> = Interests::default();
            let mut model = std::collections::BTreeSet::new();
            for (keys, add) in steps {
                if add {
                    *interests.entry(&keys) = Some(keys.clone());
                    model.insert(keys);
                } else {
                    interests.remove(&keys);
                    prop_assert!(interests.get_mut(&keys).is_none());
                    model.remove(&keys);
                }
                prop_assert_eq!(interests.is_empty(), model.is_empty());
                for key in 0..16_u8 {
                    let mut found = Vec::new();
                    interests.visit(&[key], &mut |keys| found.extend(keys.clone()));
                    found.sort();
                    let expected: Vec<_> = model.iter().filter(|keys| keys.contains(&[key])).cloned().collect();
                    prop_assert_eq!(&found, &expected);
                }
                prop_assert!(depth(interests.ranges.as_deref()) <= 10);
            }
        }
    }
}
