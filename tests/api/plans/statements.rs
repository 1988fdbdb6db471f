//! The SQL statements of `src/store/`, read from its sources. A statement is a literal that begins like one, or the result of a
//! `concat!` or `sql!`, which may contain the columns of a type that `columns!` declares. So a new query is found without a
//! change here.

use std::collections::HashMap;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

use crate::support::place::Kind;

/// A statement in the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The file's name under `src/store/`.
    pub file: String,
    pub line: usize,
    /// The text, with one space between words.
    pub text: String,
    /// The database on which the code around the statement runs. `None` if it runs on both.
    pub only: Option<Kind>,
}

/// All statements of all files in a folder.
pub fn of_folder(folder: &Path) -> Vec<Statement> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    let name = |path: &PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
    let sources: Vec<(String, String)> =
        files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect();
    of_sources(&sources)
}

/// All statements of some files, given as name and text. A file can use the macros of the other files.
pub fn of_sources(sources: &[(String, String)]) -> Vec<Statement> {
    let mut known = Known::default();
    let mut files = Vec::new();
    for (file, source) in sources {
        let tokens = without_tests(tokens(source));
        files.push((file, take_macros(file, tokens, &mut known)));
    }
    let mut statements = Vec::new();
    for (file, tokens) in files {
        let sides = databases_of_tokens(&tokens);
        let mut at = 0;
        while at < tokens.len() {
            let Some((text, next)) = literal(file, &tokens, at, &known) else {
                at += 1;
                continue;
            };
            if is_statement(&text) {
                let (line, only) = (tokens[at].line, sides[at]);
                statements.push(Statement { file: file.clone(), line, text: one_line(&text), only });
            }
            at = next;
        }
    }
    statements
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Text(String),
    Word(String),
    Mark(char),
}

#[derive(Clone, Debug)]
struct Token {
    what: What,
    line: usize,
}

impl Token {
    fn is(&self, mark: char) -> bool {
        self.what == What::Mark(mark)
    }

    fn word(&self) -> Option<&str> {
        match &self.what {
            What::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// A part of a text that a macro builds: a literal, the argument with this index, or the columns of a type.
enum Part {
    Text(String),
    Argument(usize),
    Columns(String),
}

/// Macros and constants that build texts, by name.
#[derive(Default)]
struct Known {
    macros: HashMap<String, Vec<Part>>,
    /// The columns of types, by the declaring file and the name of the type.
    columns: HashMap<(String, String), Vec<Part>>,
}

impl Known {
    /// The columns of the type with this name, as used in `file`: the type of the same file, or else the only type with that
    /// name.
    fn columns(&self, file: &str, name: &str) -> String {
        let of_name = |(its_file, its_name): &&(String, String)| its_name == name && its_file == file;
        let own = self.columns.keys().find(of_name);
        let mut others = self.columns.keys().filter(|(_, its_name)| its_name == name);
        let key = own.or_else(|| others.next().filter(|_| others.next().is_none()));
        let key = key.unwrap_or_else(|| panic!("src/store/{file}: no type {name} with columns, or several"));
        self.build_text(&key.0, &self.columns[key], &[]).unwrap()
    }

    /// The text of some parts in a file.
    fn build_text(&self, file: &str, parts: &[Part], arguments: &[String]) -> Option<String> {
        let text = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Argument(number) => arguments.get(*number).cloned(),
            Part::Columns(name) => Some(self.columns(file, name)),
        };
        parts.iter().map(text).collect()
    }
}

/// Splits Rust source into the tokens that matter here: string literals, words and punctuation marks. Comments are left out.
fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = source.chars().peekable();
    while let Some(letter) = rest.next() {
        let start = line;
        let what = match letter {
            '\n' => {
                line += 1;
                continue;
            }
            _ if letter.is_whitespace() => continue,
            '/' if rest.peek() == Some(&'/') => {
                while rest.next_if(|next| *next != '\n').is_some() {}
                continue;
            }
            '/' if rest.peek() == Some(&'*') => {
                let mut last = ' ';
                for next in rest.by_ref() {
                    line += usize::from(next == '\n');
                    if last == '*' && next == '/' {
                        break;
                    }
                    last = next;
                }
                continue;
            }
            '"' => What::Text(string_literal(&mut rest, &mut line)),
            'r' if begins_raw(&rest) => What::Text(raw_string_literal(&mut rest, &mut line)),
            '\'' => {
                skip_quote(&mut rest);
                continue;
            }
            _ if letter.is_alphanumeric() || letter == '_' => {
                let mut word = letter.to_string();
                while let Some(next) = rest.next_if(|next| next.is_alphanumeric() || *next == '_') {
                    word.push(next);
                }
                What::Word(word)
            }
            _ => What::Mark(letter),
        };
        found.push(Token { what, line: start });
    }
    found
}

/// The rest of a string literal after its opening quotation mark.
fn string_literal(rest: &mut Peekable<Chars<'_>>, line: &mut usize) -> String {
    let mut text = String::new();
    while let Some(letter) = rest.next() {
        match letter {
            '"' => return text,
            '\\' => match rest.next() {
                Some('\n') => {
                    *line += 1;
                    while let Some(space) = rest.next_if(|next| next.is_whitespace()) {
                        *line += usize::from(space == '\n');
                    }
                }
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                // \u{…} and \x.. do not occur in statements.
                Some(other) => text.push(other),
                None => break,
            },
            _ => {
                *line += usize::from(letter == '\n');
                text.push(letter);
            }
        }
    }
    panic!("a string literal without an end");
}

fn begins_raw(rest: &Peekable<Chars<'_>>) -> bool {
    rest.clone().find(|letter| *letter != '#') == Some('"')
}

fn raw_string_literal(rest: &mut Peekable<Chars<'_>>, line: &mut usize) -> String {
    let mut end = "\"".to_owned();
    while rest.next_if_eq(&'#').is_some() {
        end.push('#');
    }
    rest.next();
    let mut text = String::new();
    for letter in rest.by_ref() {
        *line += usize::from(letter == '\n');
        text.push(letter);
        if text.ends_with(&end) {
            text.truncate(text.len() - end.len());
            return text;
        }
    }
    panic!("a raw string literal without an end");
}

/// Skips the rest of a character literal. If the quote begins a lifetime, the name of the lifetime is not skipped and becomes
/// an ordinary word.
fn skip_quote(rest: &mut Peekable<Chars<'_>>) {
    let mut ahead = rest.clone();
    let first = ahead.next();
    if first == Some('\\') {
        rest.next();
        rest.next();
        while rest.next().is_some_and(|letter| letter != '\'') {}
    } else if ahead.next() == Some('\'') {
        rest.next();
        rest.next();
    }
}

/// The index after the bracket that closes the one at `at`.
fn index_after_bracket(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        match token.what {
            What::Mark('(' | '[' | '{') => depth += 1,
            What::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return place + 1;
        }
    }
    panic!("the bracket in line {} is never closed", tokens[at].line);
}

fn matches_words(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len()
        && tokens.iter().zip(words).all(|(token, wanted)| match &token.what {
            What::Word(word) => word == wanted,
            What::Mark(mark) => wanted.len() == 1 && wanted.starts_with(*mark),
            What::Text(_) => false,
        })
}

/// Removes every item that is compiled only for tests.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !matches_words(&tokens[at..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += 7;
        while at < tokens.len() && !tokens[at].is('{') && !tokens[at].is(';') {
            at += 1;
        }
        at = if at < tokens.len() && tokens[at].is('{') { index_after_bracket(&tokens, at) } else { at + 1 };
    }
    kept
}

/// Removes the definitions of macros, and adds those that build a text to `known`.
fn take_macros(file: &str, tokens: Vec<Token>, known: &mut Known) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if matches_words(&tokens[at..], &["columns", "!", "{"]) {
            let end = index_after_bracket(&tokens, at + 2);
            let key = (file.to_owned(), tokens[at + 3].word().unwrap().to_owned());
            known.columns.insert(key, column_list(&tokens[at + 3..end - 1]));
            at = end;
            continue;
        }
        if !matches_words(&tokens[at..], &["macro_rules", "!"]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = index_after_bracket(&tokens, at + 3);
        let body = &tokens[at + 4..end - 1];
        match parts(body) {
            Some(parts) => {
                known.macros.insert(tokens[at + 2].word().unwrap().to_owned(), parts);
            }
            None => {
                let statement = body.iter().find(|token| matches!(&token.what, What::Text(text) if is_statement(text)));
                if let Some(statement) = statement {
                    panic!("src/store/{file}:{}: this test cannot read this macro", statement.line);
                }
            }
        }
        at = end;
    }
    kept
}

/// Reads the body of a macro of the form `($one:literal, …) => { concat!("…", $one, …) }`.
fn parts(body: &[Token]) -> Option<Vec<Part>> {
    let arrow = (0..body.len()).find(|at| body[*at].is('=') && body.get(at + 1).is_some_and(|next| next.is('>')))?;
    let dollars = (0..arrow).filter(|at| body[*at].is('$'));
    let names: Vec<&str> = dollars.filter_map(|at| body[at + 1].word()).collect();
    let concat = (arrow..body.len()).find(|at| matches_words(&body[*at..], &["concat", "!", "("]))?;
    let mut parts = Vec::new();
    let mut at = concat + 3;
    let end = index_after_bracket(body, concat + 2) - 1;
    while at < end {
        match &body[at].what {
            What::Mark(',') => {}
            What::Text(text) => parts.push(Part::Text(text.clone())),
            What::Mark('$') => {
                at += 1;
                parts.push(Part::Argument(names.iter().position(|name| body[at].word() == Some(*name))?));
            }
            _ => return None,
        }
        at += 1;
    }
    Some(parts)
}

/// Reads a list of columns of the form `Type { field: "…", field: Other::COLUMNS, … } …`.
fn column_list(body: &[Token]) -> Vec<Part> {
    let mut parts = Vec::new();
    for at in 2..index_after_bracket(body, 1) - 1 {
        let part = match &body[at].what {
            What::Text(text) => Part::Text(text.clone()),
            What::Word(word) if is_columns(&body[at..]) => Part::Columns(word.clone()),
            _ => continue,
        };
        if !parts.is_empty() {
            parts.push(Part::Text(", ".into()));
        }
        parts.push(part);
    }
    parts
}

/// Whether the tokens begin with `Type::COLUMNS`.
fn is_columns(tokens: &[Token]) -> bool {
    tokens.len() > 1 && matches_words(&tokens[1..], &[":", ":", "COLUMNS"])
}

/// The text that begins at `at`, and the index after it. The text is a literal, the result of a macro, or `Type::COLUMNS`.
fn literal(file: &str, tokens: &[Token], at: usize, known: &Known) -> Option<(String, usize)> {
    let word = match &tokens[at].what {
        What::Text(text) => return Some((text.clone(), at + 1)),
        What::Word(word) => word,
        What::Mark(_) => return None,
    };
    if is_columns(&tokens[at..]) {
        return Some((known.columns(file, word), at + 4));
    }
    let parts = known.macros.get(word);
    if parts.is_none() && word != "concat" && word != "sql" || !tokens.get(at + 1)?.is('!') {
        return None;
    }
    let end = index_after_bracket(tokens, at + 2);
    let mut arguments = Vec::new();
    let mut place = at + 3;
    while place < end - 1 {
        if tokens[place].is(',') {
            place += 1;
            continue;
        }
        let (text, next) = literal(file, tokens, place, known)?;
        arguments.push(text);
        place = next;
    }
    let text = match parts {
        None => arguments.concat(),
        Some(parts) => known.build_text(file, parts, &arguments)?,
    };
    Some((text, end))
}

/// For every token, the database if the code runs on one database only. This is code in a match arm `Conn::Sqlite(_) => …`, or
/// in the block of `if let Conn::Sqlite(_) = …`, and the same for `Conn::Postgres`.
fn databases_of_tokens(tokens: &[Token]) -> Vec<Option<Kind>> {
    let mut sides = vec![None; tokens.len()];
    for (name, kind) in [("Sqlite", Kind::Sqlite), ("Postgres", Kind::Postgres)] {
        for at in 0..tokens.len() {
            if !matches_words(&tokens[at..], &["Conn", ":", ":", name, "("]) {
                continue;
            }
            let mut start = index_after_bracket(tokens, at + 4);
            let end = if matches_words(&tokens[start..], &["=", ">"]) {
                start += 2;
                end_of_arm(tokens, start)
            } else if at >= 2 && matches_words(&tokens[at - 2..], &["if", "let"]) {
                start = (start..tokens.len()).find(|place| tokens[*place].is('{')).unwrap();
                index_after_bracket(tokens, start)
            } else {
                continue;
            };
            sides[start..end].fill(Some(kind));
        }
    }
    sides
}

/// The index after the value of a match arm: after its braces, or at the comma or brace that ends it.
fn end_of_arm(tokens: &[Token], start: usize) -> usize {
    if tokens[start].is('{') {
        return index_after_bracket(tokens, start);
    }
    let mut at = start;
    while at < tokens.len() {
        match tokens[at].what {
            What::Mark(',' | '}') => return at,
            What::Mark('(' | '[' | '{') => at = index_after_bracket(tokens, at),
            _ => at += 1,
        }
    }
    at
}

fn is_statement(text: &str) -> bool {
    let mut rest = text.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '(');
    while let Some(comment) = rest.strip_prefix("--") {
        rest = comment.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
    }
    let first = rest.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
    ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].contains(&first) && rest.len() > first.len()
}

/// The text without comments and with one space between words, so that a list of exceptions can quote it.
pub fn one_line(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[test]
fn statements_are_found_in_all_forms() {
    let users = r##"
        //! "SELECT 1 FROM a_comment"
        /* "SELECT 2 FROM a_comment" */
        macro_rules! select_users {
            ($more:literal, $rest:literal) => { concat!("SELECT id", $more, " FROM messaging.users ", $rest) };
        }
        const BOTH: &[&str] = &["DELETE FROM one WHERE id = $1", "not a statement", "DELETED is no word of SQL"];
        fn first<'a>(conn: &'a Conn) -> char {
            let sql = match conn {
                Conn::Sqlite(_) => first("SELECT 3 FROM sqlite_master", &[1, 2]),
                Conn::Postgres(_) => {
                    let own = "SELECT 8";
                    "SELECT 4
                       FROM pg_class -- of all
                      WHERE a = 'it''s \"quoted\"'"
                }
            };
            conn.rows(r#"WITH a AS (SELECT "b") SELECT * FROM a"#);
            if let Conn::Postgres(_) = conn {
                return conn.rows("SELECT 7 FROM pg_class");
            }
            if c == '"' || c == '\'' { "UPDATE t SET a = 1 \
                 WHERE b = 2" }
        }
        #[cfg(test)]
        mod tests {
            fn tested() { conn.rows("SELECT 5 FROM a_test") }
        }
    "##;
    let friends = r#"
        columns! {
            Friend { /* of u */ user: User::COLUMNS, asks: "u.state = 'asked'" } => Friend::new(user, asks)
        }
        fn f() { first(select_users!(", name", "WHERE id = $1"), "WHERE id = $1", concat!("SELECT ", "6")) }
        fn g() { rows(sql!("SELECT ", Friend::COLUMNS, ", 9 FROM u"), read) }
    "#;
    let others = r#"
        columns! { User { id: "u.id", name: "u.name" } }
        columns! { Friend { id: "f.id" } }
        fn f() { rows(sql!("SELECT ", Friend::COLUMNS, " FROM f"), read) }
    "#;
    let sources = [("users.rs", users), ("friends.rs", friends), ("others.rs", others)];
    let found = of_sources(&sources.map(|(name, source)| (name.to_owned(), source.to_owned())));
    let texts: Vec<(&str, Option<Kind>)> = found.iter().map(|one| (one.text.as_str(), one.only)).collect();
    assert_eq!(
        texts,
        [
            ("DELETE FROM one WHERE id = $1", None),
            ("SELECT 3 FROM sqlite_master", Some(Kind::Sqlite)),
            ("SELECT 8", Some(Kind::Postgres)),
            ("SELECT 4 FROM pg_class WHERE a = 'it''s \"quoted\"'", Some(Kind::Postgres)),
            ("WITH a AS (SELECT \"b\") SELECT * FROM a", None),
            ("SELECT 7 FROM pg_class", Some(Kind::Postgres)),
            ("UPDATE t SET a = 1 WHERE b = 2", None),
            ("SELECT id, name FROM messaging.users WHERE id = $1", None),
            ("SELECT 6", None),
            ("SELECT u.id, u.name, u.state = 'asked', 9 FROM u", None),
            ("SELECT f.id FROM f", None),
        ]
    );
    assert_eq!((found[0].file.as_str(), found[0].line, found[4].line), ("users.rs", 7, 18));
}
