//! Elements of a page. Written as a tree, so that a page is well formed and escaped by construction.

use std::fmt::{self, Display, Write};

/// An HTML or SVG element.
#[derive(Clone, Debug)]
pub struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Element(Element),
    Text(String),
}

/// Elements that have no content and no end tag in HTML.
const VOID: [&str; 2] = ["meta", "br"];

impl Element {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            attributes: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Adds an attribute.
    pub fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Adds text, which is escaped.
    pub fn text(mut self, text: impl Display) -> Self {
        self.children.push(Node::Text(text.to_string()));
        self
    }

    pub fn child(mut self, child: Element) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }
}

impl Display for Element {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(to, " {name}=\"")?;
            escape(value, to)?;
            to.write_char('"')?;
        }
        if VOID.contains(&self.name) {
            return to.write_str("/>");
        }
        to.write_char('>')?;
        for child in &self.children {
            match child {
                Node::Element(element) => element.fmt(to)?,
                Node::Text(text) => escape(text, to)?,
            }
        }
        write!(to, "</{}>", self.name)
    }
}

/// Control characters other than white space may stand in no document, escaped or not.
fn escape(text: &str, to: &mut fmt::Formatter<'_>) -> fmt::Result {
    for character in text.chars() {
        match character {
            '&' => to.write_str("&amp;")?,
            '<' => to.write_str("&lt;")?,
            '>' => to.write_str("&gt;")?,
            '"' => to.write_str("&quot;")?,
            '\n' | '\t' => to.write_char(character)?,
            control if control.is_control() => to.write_char('\u{fffd}')?,
            other => to.write_char(other)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_break_out() {
        let element = Element::new("p")
            .with("title", "\"><script>")
            .text("</p><script>&\u{0}");
        assert_eq!(
            element.to_string(),
            "<p title=\"&quot;&gt;&lt;script&gt;\">&lt;/p&gt;&lt;script&gt;&amp;\u{fffd}</p>"
        );
    }

    #[test]
    fn void_elements_close_themselves_and_empty_ones_do_not() {
        let page = Element::new("div")
            .child(Element::new("br"))
            .child(Element::new("span"));
        assert_eq!(page.to_string(), "<div><br/><span></span></div>");
    }
}
