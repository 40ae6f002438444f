//! A typed reader over the tree: each field is taken by name, what is left over is unknown.
//! Messages name file, line, field, what was expected and what was found. Pure.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::expand::{ExpandError, expand};
use super::scalar::{
    Expected, decimal, duration_of_seconds, parse_boolean, parse_bytes, parse_duration, whole,
};
use super::tree::{Node, Value};
use super::{ConfigError, Given, Origin, Rate, Workers};

/// How much of a wrong value a message repeats.
const SHOWN_CHARACTERS_MAX: usize = 40;

/// The file being read and the environment its strings may name.
pub(super) struct Source<'a> {
    pub file: Arc<str>,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// One value of the file.
pub(super) struct Field<'a> {
    source: &'a Source<'a>,
    path: String,
    node: Node,
}

/// The members of one table that nobody has taken yet.
pub(super) struct Fields<'a> {
    source: &'a Source<'a>,
    path: String,
    members: Vec<(String, Node)>,
    known: Vec<&'static str>,
}

impl<'a> Field<'a> {
    /// The whole file.
    pub fn root(source: &'a Source<'a>, node: Node) -> Self {
        Self {
            source,
            path: String::new(),
            node,
        }
    }

    pub fn origin(&self) -> Origin {
        Origin::File {
            file: self.source.file.clone(),
            line: self.node.line,
            field: self.path.clone(),
        }
    }

    pub fn is_table(&self) -> bool {
        matches!(self.node.value, Value::Table(_))
    }

    /// What `read` makes of this field, with its origin.
    pub fn given<T>(
        self,
        read: impl FnOnce(&Self) -> Result<T, ConfigError>,
    ) -> Result<Given<T>, ConfigError> {
        Ok(Given {
            value: read(&self)?,
            origin: self.origin(),
        })
    }

    /// Text with its `${NAME}`s filled in.
    pub fn text(&self) -> Result<String, ConfigError> {
        match &self.node.value {
            Value::Text(written) => self.expanded(written),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Date => {
                Err(self.wrong_type("text in quotes"))
            }
            Value::Null | Value::List(_) | Value::Table(_) => Err(self.wrong_type("text")),
        }
    }

    /// A whole number that fits `T`; also one in quotes, so that a `${NAME}` can give it.
    pub fn whole<T: TryFrom<i128>>(&self) -> Result<T, ConfigError> {
        /// Up to here every whole number is a float of its own.
        const FLOAT_EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        let number = match &self.node.value {
            Value::Integer(number) => Some(*number),
            Value::Float(number) if number.fract() == 0.0 && number.abs() <= FLOAT_EXACT_MAX => {
                Some(*number as i128)
            }
            Value::Text(written) => whole(self.expanded(written)?.trim()),
            _ => None,
        };
        let number = number.ok_or_else(|| self.wrong_type("a whole number"))?;
        T::try_from(number).map_err(|_| {
            let expected = if number < 0 {
                "a number of 0 or more"
            } else {
                "a smaller number"
            };
            self.wrong_type(expected)
        })
    }

    /// Any finite number.
    pub fn number(&self) -> Result<f64, ConfigError> {
        let number = match &self.node.value {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Text(written) => decimal(self.expanded(written)?.trim()),
            _ => None,
        };
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.wrong_type("a number"))
    }

    pub fn boolean(&self) -> Result<bool, ConfigError> {
        match &self.node.value {
            Value::Boolean(value) => Ok(*value),
            Value::Integer(number) => self.expect(parse_boolean(&number.to_string())),
            Value::Text(written) => self.expect(parse_boolean(&self.expanded(written)?)),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    pub fn duration(&self) -> Result<Duration, ConfigError> {
        self.expect(match &self.node.value {
            Value::Text(written) => parse_duration(&self.expanded(written)?),
            Value::Integer(number) => duration_of_seconds(*number as f64),
            Value::Float(number) => duration_of_seconds(*number),
            _ => duration_of_seconds(f64::NAN),
        })
    }

    pub fn rate(&self) -> Result<Rate, ConfigError> {
        self.expect(match &self.node.value {
            Value::Text(written) => self.expanded(written)?.parse(),
            Value::Integer(number) => Rate::of_number(*number as f64),
            Value::Float(number) => Rate::of_number(*number),
            _ => Rate::of_number(f64::NAN),
        })
    }

    pub fn workers(&self) -> Result<Workers, ConfigError> {
        match &self.node.value {
            Value::Text(written) => self.expect(self.expanded(written)?.parse()),
            _ => self.whole().map(Workers::Most),
        }
    }

    pub fn bytes(&self) -> Result<usize, ConfigError> {
        match &self.node.value {
            Value::Text(written) => self.expect(parse_bytes(&self.expanded(written)?)),
            _ => self.whole(),
        }
    }

    /// One of a few words, or whatever else parses itself from text.
    pub fn choice<T: FromStr<Err = Expected>>(&self) -> Result<T, ConfigError> {
        self.parsed(T::from_str)
    }

    pub fn parsed<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, Expected>,
    ) -> Result<T, ConfigError> {
        self.expect(parse(&self.text()?))
    }

    /// The items of a list.
    pub fn items(self) -> Result<Vec<Self>, ConfigError> {
        match self.node.value {
            Value::List(items) => {
                let item = |(index, node)| Self {
                    source: self.source,
                    path: format!("{}[{index}]", self.path),
                    node,
                };
                Ok(items.into_iter().enumerate().map(item).collect())
            }
            _ => Err(self.wrong_type("a list")),
        }
    }

    /// The members of a table whose names are the schema's.
    pub fn fields(self) -> Result<Fields<'a>, ConfigError> {
        match self.node.value {
            Value::Table(members) => Ok(Fields {
                source: self.source,
                path: self.path,
                members,
                known: Vec::new(),
            }),
            _ => Err(self.wrong_type("a table")),
        }
    }

    /// The members of a table whose names are the user's.
    pub fn members(self) -> Result<Vec<(String, Self)>, ConfigError> {
        let Fields {
            source,
            path,
            members,
            ..
        } = self.fields()?;
        let member = |(name, node): (String, Node)| {
            let path = join(&path, &name);
            (name, Self { source, path, node })
        };
        Ok(members.into_iter().map(member).collect())
    }

    fn expanded(&self, written: &str) -> Result<String, ConfigError> {
        expand(written, self.source.environment).map_err(|error| match error {
            ExpandError::Unset(variable) => ConfigError::UnsetVariable {
                origin: self.origin(),
                variable,
            },
            ExpandError::Malformed => ConfigError::Invalid {
                origin: self.origin(),
                problem: "`${` opens no variable: write ${NAME}, or $${ for a literal ${"
                    .to_owned(),
            },
        })
    }

    fn expect<T>(&self, result: Result<T, Expected>) -> Result<T, ConfigError> {
        result.map_err(|Expected(expected)| self.wrong_type(expected))
    }

    fn wrong_type(&self, expected: &str) -> ConfigError {
        let found = match &self.node.value {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => value.to_string(),
            // What fails to be text may be a key somebody forgot to quote.
            _ if expected.starts_with("text") && !self.is_structure() => "a number".to_owned(),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(number) => format!("the number {number}"),
            // As written, before `${NAME}` is filled in: the value may be a secret.
            Value::Text(written) => {
                format!(
                    "{:?}",
                    written
                        .chars()
                        .take(SHOWN_CHARACTERS_MAX)
                        .collect::<String>()
                )
            }
            Value::Date => "a date".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        };
        ConfigError::WrongType {
            origin: self.origin(),
            expected: expected.to_owned(),
            found,
        }
    }

    fn is_structure(&self) -> bool {
        matches!(
            self.node.value,
            Value::List(_) | Value::Table(_) | Value::Date
        )
    }
}

impl<'a> Fields<'a> {
    /// The field called by one of `names`, canonical one first. `null` counts as not given;
    /// two names of one field are an error.
    pub fn take(&mut self, names: &[&'static str]) -> Result<Option<Field<'a>>, ConfigError> {
        self.known.extend(names);
        let mut taken: Option<Field<'a>> = None;
        while let Some(index) = self
            .members
            .iter()
            .position(|(name, _)| names.contains(&name.as_str()))
        {
            let (name, node) = self.members.remove(index);
            let field = Field {
                source: self.source,
                path: join(&self.path, &name),
                node,
            };
            if let Some(other) = &taken {
                let (origin, other) = (field.origin(), Box::new(other.origin()));
                return Err(ConfigError::GivenTwice { origin, other });
            }
            taken = Some(field);
        }
        Ok(taken.filter(|field| field.node.value != Value::Null))
    }

    /// [`Self::take`], then `read`.
    pub fn given<T>(
        &mut self,
        names: &[&'static str],
        read: impl FnOnce(&Field<'a>) -> Result<T, ConfigError>,
    ) -> Result<Option<Given<T>>, ConfigError> {
        self.take(names)?.map(|field| field.given(read)).transpose()
    }

    /// A table among the members.
    pub fn table(&mut self, names: &[&'static str]) -> Result<Option<Fields<'a>>, ConfigError> {
        self.take(names)?.map(Field::fields).transpose()
    }

    /// Refuses what nobody took. `elsewhere` tells where a name of another table belongs.
    pub fn finish(
        self,
        elsewhere: impl FnOnce(&str) -> Option<&'static str>,
    ) -> Result<(), ConfigError> {
        let Some((name, node)) = self.members.into_iter().next() else {
            return Ok(());
        };
        let hint = match (elsewhere(&name), nearest(&name, &self.known)) {
            (Some(table), _) => format!("`{name}` belongs in `{table}`"),
            (None, Some(nearest)) => format!("the nearest known field is `{nearest}`"),
            (None, None) => "nothing is known here".to_owned(),
        };
        let field = Field {
            source: self.source,
            path: join(&self.path, &name),
            node,
        };
        Err(ConfigError::UnknownField {
            origin: field.origin(),
            hint,
        })
    }
}

fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let likeness = |known: &str| strsim::jaro_winkler(&name.to_ascii_lowercase(), known);
    known
        .iter()
        .copied()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
