//! A growing forest that answers "is this node above that one" in amortised O(log n).
//!
//! Document order asks this once per block, and long prepended texts make trees as deep as they have blocks, so walking
//! up would be quadratic. This is a link-cut tree (Sleator and Tarjan, 1983) without cuts and without re-rooting: each
//! preferred path is a splay tree ordered by depth.

const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    /// The parent in the splay tree or, for the root of one, the node above its path.
    parent: u32,
    children: [u32; 2],
    /// The parent in the forest itself, for the short walks that answer most questions.
    above: u32,
}

pub(super) struct Forest {
    nodes: Vec<Node>,
}

/// Steps of plain walking before the tree is consulted.
const WALK_MAX: usize = 32;

impl Forest {
    /// `len` nodes, each a root.
    pub(super) fn new(len: usize) -> Forest {
        Forest {
            nodes: vec![
                Node {
                    parent: NIL,
                    children: [NIL; 2],
                    above: NIL
                };
                len
            ],
        }
    }

    /// Hangs a root under a node of another tree.
    pub(super) fn link(&mut self, root: usize, above: usize) {
        let (root, above) = (root as u32, above as u32);
        debug_assert!(self.node(root).above == NIL && root != above);
        self.splay(root);
        self.nodes[root as usize].parent = above;
        self.nodes[root as usize].above = above;
    }

    /// Whether `upper` is `lower` or above it.
    pub(super) fn is_at_or_above(&mut self, upper: usize, lower: usize) -> bool {
        let (upper, lower) = (upper as u32, lower as u32);
        let mut at = lower;
        for _ in 0..WALK_MAX {
            if at == upper {
                return true;
            }
            at = self.node(at).above;
            if at == NIL {
                return false;
            }
        }
        self.access(lower);
        // The path from the root to `lower` is one splay tree now, with `lower` at its top and nothing above. Raising
        // `upper` to the top of its own splay tree puts something above `lower` only if it is in the same one.
        self.splay(upper);
        upper == lower || self.node(lower).parent != NIL
    }

    fn node(&self, x: u32) -> Node {
        self.nodes[x as usize]
    }

    fn is_top(&self, x: u32) -> bool {
        let parent = self.node(x).parent;
        parent == NIL || !self.node(parent).children.contains(&x)
    }

    /// Makes the path from the root to `x` a splay tree of its own with `x` at its root.
    fn access(&mut self, x: u32) {
        let mut below = NIL;
        let mut at = x;
        while at != NIL {
            self.splay(at);
            self.nodes[at as usize].children[1] = below;
            below = at;
            at = self.node(at).parent;
        }
        self.splay(x);
    }

    fn splay(&mut self, x: u32) {
        while !self.is_top(x) {
            let parent = self.node(x).parent;
            if !self.is_top(parent) {
                let straight = self.side(x) == self.side(parent);
                self.rotate(if straight { parent } else { x });
            }
            self.rotate(x);
        }
    }

    fn side(&self, x: u32) -> usize {
        usize::from(self.node(self.node(x).parent).children[1] == x)
    }

    /// Moves `x` up by one within its splay tree.
    fn rotate(&mut self, x: u32) {
        let parent = self.node(x).parent;
        let side = self.side(x);
        let grandparent = self.node(parent).parent;
        if !self.is_top(parent) {
            let parent_side = self.side(parent);
            self.nodes[grandparent as usize].children[parent_side] = x;
        }
        let inner = self.node(x).children[1 - side];
        self.nodes[parent as usize].children[side] = inner;
        if inner != NIL {
            self.nodes[inner as usize].parent = parent;
        }
        self.nodes[x as usize].children[1 - side] = parent;
        self.nodes[parent as usize].parent = x;
        self.nodes[x as usize].parent = grandparent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against plain walking, in forests deep enough to leave the walk, linked in an order that also hangs roots
        /// with trees below them.
        #[test]
        fn agrees_with_walking(
            depth_bias in 1_usize..8,
            choices in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 10..400),
        ) {
            let n = choices.len();
            let mut forest = Forest::new(n);
            let mut above = vec![None; n];
            let mut order: Vec<usize> = (1..n).collect();
            order.sort_by_key(|&x| choices[x].0.index(n) / depth_bias);
            for x in order {
                let near = x.saturating_sub(depth_bias);
                let parent = near + choices[x].1.index(x - near);
                forest.link(x, parent);
                above[x] = Some(parent);
                for (upper, lower) in [(0, x), (parent, n - 1), (x / 2, x), (choices[x].0.index(n), n - 1)] {
                    let mut at = Some(lower);
                    while let Some(here) = at && here != upper {
                        at = above[here];
                    }
                    prop_assert_eq!(forest.is_at_or_above(upper, lower), at.is_some());
                }
            }
        }
    }
}
