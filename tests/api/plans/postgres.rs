//! `EXPLAIN` of generic plans, which prepared statements use. Sequential scans, and joins that read both sides completely, are
//! disabled. PostgreSQL then plans as if they were as expensive as possible. Otherwise a generic plan would choose such joins,
//! because it assumes that a LIMIT returns a tenth of a table. A scan that remains in a plan has no index that it could use.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::statements::Statement;
use super::{Explained, Scan, is_small};
use crate::support::Place;

/// Number of rows in every table that grows. There are so many that it matters which index a plan uses.
const ROWS: usize = 5_000;

/// Columns that hold only a few different words. If every row had a different word, PostgreSQL's statistics would make it seem
/// cheap to read a whole table for one word.
const WORDS: &[&str] = &["kind", "state", "role", "type", "purpose", "history", "action"];

/// An index: its table and its first column.
struct Index {
    table: String,
    /// `None` for an index other than a B-tree. A B-tree needs its first column to find rows.
    leading: Option<String>,
}

pub async fn explain(place: &Place, statements: &[Statement]) -> Vec<Explained> {
    let client = place.postgres().await;
    fill(&client).await;
    let settings = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
                    SET enable_mergejoin = off";
    client.batch_execute(settings).await.unwrap();
    let indexes = indexes(&client).await;
    let mut explained = Vec::new();
    for statement in statements {
        explained.push(match plan(&client, &statement.text, "VERBOSE off").await {
            Err(error) => {
                Err(error.as_db_error().map_or_else(|| error.to_string(), |reported| reported.message().to_owned()))
            }
            Ok(plan) => {
                let mut scans = Vec::new();
                collect(&plan[0]["Plan"], &indexes, &mut scans);
                Ok(scans)
            }
        });
    }
    // An EXISTS in an expression has two alternative plans. PostgreSQL uses the one that reads everything once into a hash
    // table if the table was small at the time of planning. Some of these plans appear only with sequential scans enabled,
    // others only without.
    for seqscan in ["on", "off"] {
        let settings = format!(
            "SET enable_seqscan = {seqscan}; SET enable_hashjoin = on; SET enable_mergejoin = on; SET enable_indexscan = off;
             SET enable_indexonlyscan = off; SET enable_bitmapscan = off"
        );
        client.batch_execute(&settings).await.unwrap();
        for (statement, explained) in statements.iter().zip(&mut explained) {
            if let Ok(scans) = explained
                && statement.text.contains("EXISTS")
            {
                let plan = plan(&client, &statement.text, "VERBOSE").await.unwrap();
                collect_hashed(&plan[0]["Plan"], &plan.to_string(), scans);
            }
        }
    }
    explained
}

/// Adds the tables that a subplan reads completely into a hash table.
fn collect_hashed(node: &Value, whole: &str, scans: &mut Vec<Scan>) {
    for below in node["Plans"].as_array().into_iter().flatten() {
        let name = below["Subplan Name"].as_str().unwrap_or_default();
        if below["Parent Relationship"] == "SubPlan" && whole.contains(&format!("hashed {name}")) {
            let mut within = Vec::new();
            collect(below, &BTreeMap::new(), &mut within);
            scans.extend(within.into_iter().map(|scan| Scan { how: format!("hashed {name}"), ..scan }));
        }
        collect_hashed(below, whole, scans);
    }
}

async fn plan(client: &Client, text: &str, how: &str) -> Result<Value, tokio_postgres::Error> {
    client.batch_execute(&format!("PREPARE tried AS {text}")).await?;
    let values = vec!["NULL"; parameters(text)].join(", ");
    let execute = if values.is_empty() { "EXECUTE tried".to_owned() } else { format!("EXECUTE tried ({values})") };
    let rows = client.simple_query(&format!("EXPLAIN ({how}, FORMAT JSON) {execute}")).await;
    client.batch_execute("DEALLOCATE tried").await?;
    let lines = rows?.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(serde_json::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap())
}

/// The number of parameters of a statement.
fn parameters(text: &str) -> usize {
    let numbers = text.split('$').skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    });
    numbers.max().unwrap_or(0)
}

/// Adds the scans of a plan node and of the nodes below it. An index counts as read completely unless the condition uses its
/// first column.
fn collect(node: &Value, indexes: &BTreeMap<String, Index>, scans: &mut Vec<Scan>) {
    let text = |name: &str| node[name].as_str().unwrap_or_default();
    if text("Node Type") == "Seq Scan" {
        scans.push(Scan { table: text("Relation Name").to_owned(), how: format!("Seq Scan, {}", text("Filter")) });
    }
    if let Some(index) = indexes.get(text("Index Name"))
        && !is_looked_up(index, text("Index Cond"))
    {
        let how = format!("{} of {} by {:?}", text("Node Type"), text("Index Name"), text("Index Cond"));
        scans.push(Scan { table: index.table.clone(), how });
    }
    for below in node["Plans"].as_array().into_iter().flatten() {
        collect(below, indexes, scans);
    }
}

/// Whether an index condition uses the first column of the index. In a condition the columns of the index are on the left, for
/// example `((conversation_id = $1) AND (seq > $2))` or `(ROW(last_sent_at, id) < ROW($1, $2))`.
fn is_looked_up(index: &Index, condition: &str) -> bool {
    let condition = condition.replace('"', "");
    match &index.leading {
        None => !condition.is_empty(),
        Some(column) => [format!("({column} "), format!("({column},")].iter().any(|left| condition.contains(left)),
    }
}

async fn indexes(client: &Client) -> BTreeMap<String, Index> {
    let sql = "SELECT i.relname::text, t.relname::text, a.amname = 'btree', pg_get_indexdef(i.oid, 1, true)
                 FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
                 JOIN pg_am a ON a.oid = i.relam JOIN pg_namespace n ON n.oid = t.relnamespace
                WHERE n.nspname = 'messaging'";
    let rows = client.query(sql, &[]).await.unwrap();
    let index = |row: &tokio_postgres::Row| {
        let leading = row.get::<_, bool>(2).then(|| row.get::<_, String>(3).replace('"', ""));
        (row.get(0), Index { table: row.get(1), leading })
    };
    rows.iter().map(index).collect()
}

/// Inserts rows into every table that grows. The values depend on the types of the columns, so that new tables are filled too.
async fn fill(client: &Client) {
    let sql = "SELECT c.table_name::text, c.column_name::text, c.data_type::text,
                      c.is_nullable = 'YES', c.column_default IS NOT NULL OR c.is_generated = 'ALWAYS'
                 FROM information_schema.columns c
                 JOIN information_schema.tables t USING (table_schema, table_name)
                WHERE c.table_schema = 'messaging' AND t.table_type = 'BASE TABLE'
                ORDER BY c.table_name, c.ordinal_position";
    let mut tables: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let [table, column, kind]: [String; 3] = [row.get(0), row.get(1), row.get(2)];
        let (optional, given): (bool, bool) = (row.get(3), row.get(4));
        if is_small(&table) {
            continue;
        }
        match value(&column, &kind) {
            // Optional columns are NULL in nine rows of ten.
            Some(value) if optional => {
                let value = format!("CASE WHEN i % 10 = 0 THEN {value} END");
                tables.entry(table).or_default().push((column, value));
            }
            Some(value) => tables.entry(table).or_default().push((column, value)),
            None => assert!(optional || given, "{table}.{column} has the type {kind}: add a value for it here"),
        }
    }
    for (table, columns) in tables {
        let (names, values): (Vec<String>, Vec<String>) = columns.into_iter().unzip();
        let sql = format!(
            "INSERT INTO messaging.{table} (\"{}\") SELECT {} FROM generate_series(1, {ROWS}) AS i ON CONFLICT DO NOTHING",
            names.join("\", \""),
            values.join(", ")
        );
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{table} cannot be filled: {error:?}"));
    }
    client.batch_execute("ANALYZE").await.unwrap();
}

fn value(column: &str, kind: &str) -> Option<String> {
    let number = match column {
        "conversation_id" => "1000000 + i / 10",
        "day" => "i % 3",
        _ if column != "id" && column.ends_with("_id") => "1000000 + i % 500",
        _ => "1000000 + i",
    };
    Some(match kind {
        "bigint" | "integer" => number.to_owned(),
        "text" if WORDS.contains(&column) => {
            "(ARRAY['direct', 'group', 'text', 'system', 'friends', 'asked', 'user', 'member', 'read', 'open'])[1 + i % 10]"
                .to_owned()
        }
        "text" => "'x' || i".to_owned(),
        "bytea" => "decode(md5(i::text), 'hex')".to_owned(),
        "boolean" => "i % 2 = 0".to_owned(),
        "timestamp with time zone" => "now() - i * interval '1 minute'".to_owned(),
        "tsvector" => "to_tsvector('simple', 'x' || i)".to_owned(),
        _ => return None,
    })
}
