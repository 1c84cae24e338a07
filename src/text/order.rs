//! Document order: the plain text of a state (section 5 of the text rules).
//!
//! Each block becomes a root, or a left or right child of the block that holds one of its origins. Parents are older
//! than their children (checked at parsing), so there are no cycles. Iterative throughout: chains of 100 000 blocks are
//! legal.

use super::ancestry::Forest;
use super::blocks::{Block, Blocks, Finder};

const NIL: u32 = u32::MAX;

/// Live characters in document order.
pub(super) fn visible_text(blocks: &Blocks) -> String {
    let list = &*blocks.list;
    let bytes = list
        .iter()
        .filter(|block| !block.deleted)
        .map(|block| block.bytes as usize)
        .sum();
    let mut out = String::with_capacity(bytes);
    let tree = Tree::of(blocks);
    tree.walk(|number| {
        let block: &Block = &list[number];
        if !block.deleted {
            out.push_str(block.text(&blocks.text));
        }
    });
    out
}

/// Child lists as linked siblings, in ID order. The last element of `chains` stands for the level of the roots.
struct Tree {
    chains: Vec<[Chain; 2]>,
    next_sibling: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

impl Tree {
    fn of(blocks: &Blocks) -> Tree {
        let list = &*blocks.list;
        let finder = Finder::new(list, blocks.clients.len());
        let mut forest = Forest::new(list.len());
        let roots = list.len();
        let mut tree = Tree {
            chains: vec![[Chain { first: NIL, last: NIL }; 2]; list.len() + 1],
            next_sibling: vec![NIL; list.len()],
        };
        for (number, block) in list.iter().enumerate() {
            let (parent, side) = match (finder.find(block.left), finder.find(block.right)) {
                (None, None) => (roots, RIGHT),
                (Some(a), None) => (a, RIGHT),
                (None, Some(b)) => (b, LEFT),
                (Some(a), Some(b)) if forest.is_at_or_above(a, b) => (b, LEFT),
                (Some(a), Some(_)) => (a, RIGHT),
            };
            if parent != roots {
                forest.link(number, parent);
            }
            tree.append(number as u32, parent, side);
        }
        tree
    }

    fn append(&mut self, number: u32, parent: usize, side: usize) {
        let chain = &mut self.chains[parent][side];
        let previous = std::mem::replace(&mut chain.last, number);
        if previous == NIL {
            chain.first = number;
        } else {
            self.next_sibling[previous as usize] = number;
        }
    }

    /// Visits every block: left children, the block, right children.
    fn walk(&self, mut visit: impl FnMut(usize)) {
        let mut stack = vec![Step::Enter(self.chains[self.next_sibling.len()][RIGHT].first)];
        while let Some(step) = stack.pop() {
            match step {
                Step::Enter(NIL) => {}
                Step::Enter(number) => {
                    let at = number as usize;
                    stack.push(Step::Enter(self.next_sibling[at]));
                    stack.push(Step::Visit(number));
                    stack.push(Step::Enter(self.chains[at][LEFT].first));
                }
                Step::Visit(number) => {
                    let at = number as usize;
                    visit(at);
                    stack.push(Step::Enter(self.chains[at][RIGHT].first));
                }
            }
        }
    }
}

enum Step {
    /// A block with everything below it, then its later siblings.
    Enter(u32),
    /// A block whose left children are done, then its right children.
    Visit(u32),
}
