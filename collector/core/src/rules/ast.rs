//! The checked expression: what a rule may ask, with every name resolved and every type known.

use std::fmt;

use bcp_wire::Id;
use bcp_wire::names::NameDef;

use super::selector::Selector;
use super::window::Over;

/// A checked expression. Points are numbers into the inputs of its [`Scope`].
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Bool(bool),
    Num(f64),
    Text(String),
    /// The last good, fresh value.
    Point(usize),
    /// Seconds since the last good value, however old it is.
    Age(usize),
    Over {
        what: Over,
        input: usize,
        window_ms: u64,
    },
    Forecast {
        input: usize,
        horizon_ms: u64,
    },
    /// Highest or lowest of the points that fit a pattern.
    Extreme {
        highest: bool,
        input: usize,
    },
    /// The flags of a state hold this word.
    Flag {
        input: usize,
        word: String,
    },
    /// The device says that it measures this at all; known, and two-valued.
    Measured(usize),
    /// A state that the collector itself keeps is this word.
    Is {
        input: usize,
        word: &'static str,
        name: &'static str,
    },
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Compare {
        op: Compare,
        left: Box<Node>,
        right: Box<Node>,
    },
    OneOf {
        what: Box<Node>,
        among: Vec<Node>,
    },
    Sum {
        op: Sum,
        left: Box<Node>,
        right: Box<Node>,
    },
    Negated(Box<Node>),
    Choice {
        when: Box<Node>,
        then: Box<Node>,
        otherwise: Box<Node>,
    },
    AtLeast {
        k: usize,
        of: Vec<Node>,
    },
    /// How many assets fulfil the condition of the rule's counts at this place.
    Count(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Compare {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Compare::Less => "<",
            Compare::LessOrEqual => "<=",
            Compare::Greater => ">",
            Compare::GreaterOrEqual => ">=",
            Compare::Equal => "==",
            Compare::NotEqual => "!=",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    Plus,
    Minus,
    Times,
    Over,
}

impl Sum {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Sum::Plus => "+",
            Sum::Minus => "-",
            Sum::Times => "*",
            Sum::Over => "/",
        }
    }
}

/// Whose point it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The asset the rule is applied to.
    Own,
    Asset(Id),
    /// The agent that polls the asset, or the asset itself where it is an agent.
    Agent,
    Service(Id),
}

/// One thing a rule reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub whose: Whose,
    /// Point name, pattern with `*`, or a name of the collector itself (starts with `@`).
    pub name: String,
    pub def: Option<&'static NameDef>,
    /// Shortest and longest window asked of it.
    pub windows: Option<(u64, u64)>,
}

impl Input {
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.name.contains('*')
    }

    #[must_use]
    pub fn unit(&self) -> &'static str {
        self.def.map_or("", |def| def.unit)
    }
}

/// State of a device as its agent reports it: `yes`, `no`.
pub const REACHABLE: &str = "@reachable";
/// State of an agent's session: `alive`, `lost`.
pub const AGENT: &str = "@agent";
/// State of a service as its users see it.
pub const SERVICE: &str = "@service";

/// The inputs that an expression's numbers point into.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scope {
    pub inputs: Vec<Input>,
}

/// `count(assets, condition)`; the condition has a scope of its own, that of each asset in turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Count {
    pub assets: Selector,
    pub scope: Scope,
    pub condition: Node,
}

/// One expression of a rule with all it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub root: Node,
}

/// Prints an expression as text again, for explanations.
#[derive(Debug)]
pub struct Show<'a> {
    pub node: &'a Node,
    pub scope: &'a Scope,
    pub counts: &'a [Count],
}

impl<'a> Show<'a> {
    fn child(&self, node: &'a Node) -> Show<'a> {
        Show { node, scope: self.scope, counts: self.counts }
    }

    fn name(&self, input: usize) -> String {
        self.scope.inputs.get(input).map_or_else(String::new, |input| match &input.whose {
            Whose::Own | Whose::Agent => input.name.clone(),
            Whose::Asset(id) | Whose::Service(id) => format!("{id} {}", input.name),
        })
    }

    fn list(&self, f: &mut fmt::Formatter<'_>, nodes: &'a [Node], between: &str) -> fmt::Result {
        for (i, node) in nodes.iter().enumerate() {
            if i > 0 {
                f.write_str(between)?;
            }
            write!(f, "{}", self.child(node))?;
        }
        Ok(())
    }
}

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Node::Bool(value) => write!(f, "{value}"),
            Node::Num(value) => write!(f, "{value}"),
            Node::Text(value) => write!(f, "{value:?}"),
            Node::Point(input) => f.write_str(&self.name(*input)),
            Node::Age(input) => write!(f, "age of {}", self.name(*input)),
            Node::Over { what, input, window_ms } => {
                let what = match what {
                    Over::Avg => "average",
                    Over::Min => "minimum",
                    Over::Max => "maximum",
                    Over::Rate => "rate",
                };
                write!(f, "{what} of {} over {}", self.name(*input), Duration(*window_ms))
            }
            Node::Forecast { input, horizon_ms } => {
                write!(f, "{} in {}", self.name(*input), Duration(*horizon_ms))
            }
            Node::Extreme { highest, input } => {
                write!(f, "{} {}", if *highest { "highest" } else { "lowest" }, self.name(*input))
            }
            Node::Flag { input, word } => write!(f, "{} has {word}", self.name(*input)),
            Node::Measured(input) => write!(f, "{} is measured", self.name(*input)),
            Node::Is { name, .. } => f.write_str(name),
            Node::Not(inner) => write!(f, "not ({})", self.child(inner)),
            Node::And(all) => {
                f.write_str("(")?;
                self.list(f, all, " and ")?;
                f.write_str(")")
            }
            Node::Or(any) => {
                f.write_str("(")?;
                self.list(f, any, " or ")?;
                f.write_str(")")
            }
            Node::Compare { op, left, right } => {
                write!(f, "{} {} {}", self.child(left), op.as_str(), self.child(right))
            }
            Node::OneOf { what, among } => {
                write!(f, "{} in [", self.child(what))?;
                self.list(f, among, ", ")?;
                f.write_str("]")
            }
            Node::Sum { op, left, right } => {
                write!(f, "({} {} {})", self.child(left), op.as_str(), self.child(right))
            }
            Node::Negated(inner) => write!(f, "-{}", self.child(inner)),
            Node::Choice { when, then, otherwise } => {
                write!(f, "({} ? {} : {})", self.child(when), self.child(then), self.child(otherwise))
            }
            Node::AtLeast { k, of } => {
                write!(f, "at least {k} of (")?;
                self.list(f, of, ", ")?;
                f.write_str(")")
            }
            Node::Count(which) => match self.counts.get(*which) {
                Some(count) => {
                    let inner = Show { node: &count.condition, scope: &count.scope, counts: &[] };
                    write!(f, "assets with {inner} where {}", count.assets.text)
                }
                None => f.write_str("count"),
            },
        }
    }
}

/// Milliseconds as `30s`, `10m`, `1.5s`.
#[derive(Debug, Clone, Copy)]
pub struct Duration(pub u64);

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms >= 3_600_000 && ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms >= 60_000 && ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms if ms > 1_000 => write!(f, "{}.{}s", ms / 1_000, (ms % 1_000) / 100),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// `500ms`, `30s`, `10m`, `2h`, `7d`.
///
/// # Errors
/// One sentence that says how it is written.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let refused =
        || format!("`{}` is no duration: write 500ms, 30s, 10m, 2h or 7d", text.chars().take(32).collect::<String>());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refused()),
    };
    number.checked_mul(factor).ok_or_else(refused)
}
