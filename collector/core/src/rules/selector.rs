//! Which assets a rule is about: `kind == "crac" && site == "a"`.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

use super::check::{Checker, Spot};
use crate::topology::{Asset, kinds};

/// Checked text over the fields of an asset. Two-valued: an absent field is the empty text.
#[derive(Debug, Clone, PartialEq)]
pub struct Selector {
    pub text: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Const(bool),
    Equal(Field, Operand),
    OneOf(Field, Vec<String>),
    StartsWith(Field, Operand),
    Not(Box<Test>),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Kind,
    Site,
    Id,
    Location,
    Parent,
    Profile,
    Agent,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Text(String),
    /// A field of the asset the rule is applied to.
    Outer(Field),
}

const FIELDS: [(&str, Field); 7] = [
    ("kind", Field::Kind),
    ("site", Field::Site),
    ("id", Field::Id),
    ("location", Field::Location),
    ("parent", Field::Parent),
    ("profile", Field::Profile),
    ("agent", Field::Agent),
];

impl Field {
    fn parse(name: &str) -> Option<Field> {
        FIELDS.iter().find(|(text, _)| *text == name).map(|(_, field)| *field)
    }

    fn of(self, asset: &Asset) -> &str {
        match self {
            Field::Kind => &asset.kind,
            Field::Site => asset.site.map_or("", |site| site.as_str()),
            Field::Id => asset.id.as_str(),
            Field::Location => asset.location.as_deref().unwrap_or(""),
            Field::Parent => asset.parent.as_ref().map_or("", |id| id.as_str()),
            Field::Profile => asset.profile.as_deref().unwrap_or(""),
            Field::Agent => asset.agent.as_ref().map_or("", |id| id.as_str()),
        }
    }
}

impl Selector {
    /// `outer` is the asset of the rule, for a count's selector.
    #[must_use]
    pub fn fits(&self, asset: &Asset, outer: Option<&Asset>) -> bool {
        self.test.holds(asset, outer)
    }

    /// Checks a parsed expression; faults go to the checker.
    pub(super) fn check(
        checker: &mut Checker<'_>,
        expr: &IdedExpr,
        text: &str,
        may_ask_outer: bool,
    ) -> Option<Selector> {
        let test = check(checker, expr, may_ask_outer)?;
        Some(Selector { text: text.to_owned(), test })
    }
}

impl Test {
    fn holds(&self, asset: &Asset, outer: Option<&Asset>) -> bool {
        let resolve = |operand: &Operand| -> Option<String> {
            match operand {
                Operand::Text(text) => Some(text.clone()),
                Operand::Outer(field) => outer.map(|outer| field.of(outer).to_owned()),
            }
        };
        match self {
            Test::Const(value) => *value,
            Test::Equal(field, Operand::Text(text)) => field.of(asset) == text,
            Test::Equal(field, operand) => resolve(operand).is_some_and(|text| field.of(asset) == text),
            Test::OneOf(field, among) => among.iter().any(|text| text == field.of(asset)),
            Test::StartsWith(field, operand) => resolve(operand).is_some_and(|text| field.of(asset).starts_with(&text)),
            Test::Not(inner) => !inner.holds(asset, outer),
            Test::And(left, right) => left.holds(asset, outer) && right.holds(asset, outer),
            Test::Or(left, right) => left.holds(asset, outer) || right.holds(asset, outer),
        }
    }
}

const WRITTEN: &str = "a selector is written with kind, site, id, location, parent, profile and agent, \
                       ==, !=, in [..], startsWith(..), &&, || and !";

fn check(checker: &mut Checker<'_>, expr: &IdedExpr, outer: bool) -> Option<Test> {
    let spot = Spot::of(expr);
    match &expr.expr {
        Expr::Literal(LiteralValue::Boolean(value)) => Some(Test::Const(*value.inner())),
        Expr::Call(call) => check_call(checker, spot, call, outer),
        Expr::Unspecified
        | Expr::Comprehension(_)
        | Expr::Ident(_)
        | Expr::List(_)
        | Expr::Literal(_)
        | Expr::Map(_)
        | Expr::Select(_)
        | Expr::Struct(_) => checker.fault(spot, "this is no condition on assets", Some(WRITTEN.to_owned())),
    }
}

fn check_call(checker: &mut Checker<'_>, spot: Spot, call: &CallExpr, outer: bool) -> Option<Test> {
    let args = call.args.as_slice();
    match (call.func_name.as_str(), call.target.as_deref(), args) {
        (operators::LOGICAL_AND, None, [left, right]) => {
            let (left, right) = (check(checker, left, outer), check(checker, right, outer));
            Some(Test::And(Box::new(left?), Box::new(right?)))
        }
        (operators::LOGICAL_OR, None, [left, right]) => {
            let (left, right) = (check(checker, left, outer), check(checker, right, outer));
            Some(Test::Or(Box::new(left?), Box::new(right?)))
        }
        (operators::LOGICAL_NOT, None, [inner]) => Some(Test::Not(Box::new(check(checker, inner, outer)?))),
        (operators::EQUALS, None, [left, right]) => {
            let field = field(checker, left)?;
            Some(Test::Equal(field, operand(checker, field, right, outer)?))
        }
        (operators::NOT_EQUALS, None, [left, right]) => {
            let field = field(checker, left)?;
            Some(Test::Not(Box::new(Test::Equal(field, operand(checker, field, right, outer)?))))
        }
        (operators::IN, None, [left, IdedExpr { expr: Expr::List(list), .. }]) => {
            let field = field(checker, left)?;
            let texts: Option<Vec<String>> =
                list.elements.iter().map(|element| literal(checker, field, element)).collect();
            Some(Test::OneOf(field, texts?))
        }
        ("startsWith", Some(target), [prefix]) => {
            let field = field(checker, target)?;
            // A prefix of a kind need not be a kind.
            let prefix = match text_of(prefix) {
                Some(text) => Operand::Text(text.to_owned()),
                None => operand(checker, field, prefix, outer)?,
            };
            Some(Test::StartsWith(field, prefix))
        }
        _ => checker.fault(spot, "this is no condition on assets", Some(WRITTEN.to_owned())),
    }
}

fn field(checker: &mut Checker<'_>, expr: &IdedExpr) -> Option<Field> {
    match &expr.expr {
        Expr::Ident(name) => match Field::parse(name) {
            Some(field) => Some(field),
            None => {
                let help = Checker::nearest(name, FIELDS.iter().map(|(text, _)| *text));
                checker.fault(Spot::of(expr), format!("assets have no `{}`", super::check::clip(name)), help)
            }
        },
        Expr::Unspecified
        | Expr::Call(_)
        | Expr::Comprehension(_)
        | Expr::List(_)
        | Expr::Literal(_)
        | Expr::Map(_)
        | Expr::Select(_)
        | Expr::Struct(_) => {
            checker.fault(Spot::of(expr), "a field of the asset stands on the left", Some(WRITTEN.to_owned()))
        }
    }
}

fn text_of(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn operand(checker: &mut Checker<'_>, left: Field, expr: &IdedExpr, outer: bool) -> Option<Operand> {
    if let Expr::Select(select) = &expr.expr
        && matches!(&select.operand.expr, Expr::Ident(name) if name == "asset")
    {
        if !outer {
            return checker.fault(Spot::of(expr), "`asset` is known in a count's selector only", None);
        }
        return match Field::parse(&select.field) {
            Some(field) => Some(Operand::Outer(field)),
            None => checker.fault(
                Spot::of(expr),
                format!("assets have no `{}`", super::check::clip(&select.field)),
                Checker::nearest(&select.field, FIELDS.iter().map(|(text, _)| *text)),
            ),
        };
    }
    literal(checker, left, expr).map(Operand::Text)
}

fn literal(checker: &mut Checker<'_>, field: Field, expr: &IdedExpr) -> Option<String> {
    let Some(text) = text_of(expr) else {
        return checker.fault(Spot::of(expr), "a text in quotes stands on the right", Some(WRITTEN.to_owned()));
    };
    let known = match field {
        Field::Kind => kinds().any(|kind| kind == text),
        Field::Site => text.parse::<bcp_wire::Site>().is_ok(),
        Field::Id | Field::Parent | Field::Agent => text.parse::<bcp_wire::Id>().is_ok(),
        Field::Location | Field::Profile => true,
    };
    if known {
        return Some(text.to_owned());
    }
    let clipped = super::check::clip(text);
    match field {
        Field::Kind => checker.fault(
            Spot::of(expr),
            format!("`{clipped}` is no kind of asset"),
            Checker::nearest(text, kinds())
                .or_else(|| Some(format!("kinds: {}", kinds().collect::<Vec<_>>().join(" ")))),
        ),
        Field::Site => {
            checker.fault(Spot::of(expr), format!("`{clipped}` is no site"), Some("sites: a b w".to_owned()))
        }
        Field::Id | Field::Parent | Field::Agent | Field::Location | Field::Profile => checker.fault(
            Spot::of(expr),
            format!("`{clipped}` can be no id"),
            Some("1 to 32 of a-z, 0-9 and -".to_owned()),
        ),
    }
}
