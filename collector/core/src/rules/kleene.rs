//! Three truth values, and numbers that are only known to lie between two bounds.

use serde::{Deserialize, Serialize};

/// True, false, unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    #[must_use]
    pub const fn of(known: bool) -> Truth {
        if known { Truth::True } else { Truth::False }
    }

    /// `None` is unknown.
    #[must_use]
    pub const fn known(self) -> Option<bool> {
        match self {
            Truth::True => Some(true),
            Truth::False => Some(false),
            Truth::Unknown => None,
        }
    }

    #[must_use]
    pub const fn not(self) -> Truth {
        match self {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
        }
    }

    /// False wins, then unknown.
    #[must_use]
    pub const fn and(self, other: Truth) -> Truth {
        match (self, other) {
            (Truth::False, _) | (_, Truth::False) => Truth::False,
            (Truth::True, Truth::True) => Truth::True,
            (Truth::Unknown, Truth::True | Truth::Unknown) | (Truth::True, Truth::Unknown) => Truth::Unknown,
        }
    }

    /// True wins, then unknown.
    #[must_use]
    pub const fn or(self, other: Truth) -> Truth {
        self.not().and(other.not()).not()
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Truth::True => "true",
            Truth::False => "false",
            Truth::Unknown => "unknown",
        }
    }
}

/// A number known to lie in `lo..=hi`; a measured one has `lo == hi`. Never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub lo: f64,
    pub hi: f64,
}

impl Span {
    #[must_use]
    pub const fn exact(number: f64) -> Span {
        Span { lo: number, hi: number }
    }

    /// None where a bound is no number.
    #[must_use]
    pub fn new(lo: f64, hi: f64) -> Option<Span> {
        (lo <= hi).then_some(Span { lo, hi })
    }

    #[must_use]
    pub fn less(self, other: Span) -> Truth {
        if self.hi < other.lo {
            Truth::True
        } else if self.lo >= other.hi {
            Truth::False
        } else {
            Truth::Unknown
        }
    }

    #[must_use]
    pub fn less_or_equal(self, other: Span) -> Truth {
        other.less(self).not()
    }

    #[must_use]
    #[expect(clippy::float_cmp, reason = "equality of the same measured number is what the rule asks for")]
    pub fn equal(self, other: Span) -> Truth {
        if self.lo == self.hi && other.lo == other.hi {
            Truth::of(self.lo == other.lo)
        } else if self.hi < other.lo || other.hi < self.lo {
            Truth::False
        } else {
            Truth::Unknown
        }
    }

    #[must_use]
    pub fn plus(self, other: Span) -> Option<Span> {
        Span::new(self.lo + other.lo, self.hi + other.hi)
    }

    #[must_use]
    pub fn minus(self, other: Span) -> Option<Span> {
        Span::new(self.lo - other.hi, self.hi - other.lo)
    }

    #[must_use]
    pub fn negated(self) -> Span {
        Span { lo: -self.hi, hi: -self.lo }
    }

    #[must_use]
    pub fn times(self, other: Span) -> Option<Span> {
        Span::around([self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi])
    }

    /// None where the divisor may be 0.
    #[must_use]
    pub fn over(self, other: Span) -> Option<Span> {
        if other.lo <= 0.0 && other.hi >= 0.0 {
            return None;
        }
        Span::around([self.lo / other.lo, self.lo / other.hi, self.hi / other.lo, self.hi / other.hi])
    }

    fn around(corners: [f64; 4]) -> Option<Span> {
        if corners.iter().any(|corner| corner.is_nan()) {
            return None;
        }
        Span::new(
            corners.iter().copied().fold(f64::INFINITY, f64::min),
            corners.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, Truth};
    use Truth::{False, True, Unknown};

    #[test]
    fn the_tables_are_kleenes() {
        let and = [
            (True, True, True),
            (True, False, False),
            (True, Unknown, Unknown),
            (False, False, False),
            (False, Unknown, False),
            (Unknown, Unknown, Unknown),
        ];
        let or = [
            (True, True, True),
            (True, False, True),
            (True, Unknown, True),
            (False, False, False),
            (False, Unknown, Unknown),
            (Unknown, Unknown, Unknown),
        ];
        for (a, b, both) in and {
            assert_eq!((a.and(b), b.and(a)), (both, both), "{a:?} and {b:?}");
        }
        for (a, b, either) in or {
            assert_eq!((a.or(b), b.or(a)), (either, either), "{a:?} or {b:?}");
        }
        assert_eq!([True.not(), False.not(), Unknown.not()], [False, True, Unknown]);
    }

    #[test]
    fn spans_compare_only_where_they_must() {
        let two_to_four = Span::new(2.0, 4.0).unwrap();
        assert_eq!(Span::exact(1.0).less(two_to_four), True);
        assert_eq!(Span::exact(4.0).less(two_to_four), False);
        assert_eq!(Span::exact(3.0).less(two_to_four), Unknown);
        assert_eq!(Span::exact(2.0).less_or_equal(two_to_four), True);
        assert_eq!(Span::exact(5.0).equal(two_to_four), False);
        assert_eq!(Span::exact(3.0).equal(two_to_four), Unknown);
        assert_eq!(Span::exact(1.0).over(Span::new(-1.0, 1.0).unwrap()), None);
        assert_eq!(Span::new(f64::NAN, 1.0), None);
    }
}
