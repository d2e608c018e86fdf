//! What `anyport ps` shows of a guest: the library's status, as a table for people.

use std::fmt::Write as _;

use serde_json::Value;

/// The status that the init process has sent, for a terminal.
pub(crate) fn table(status: &Value) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let (module, stage) = (word(&status["module"]), word(&status["stage"]));
    let _ = write!(text, "{module}: {stage} for {}", time(number(&status["uptime_s"])));
    let _ = writeln!(text, ", {} of CPU time", seconds(number(&status["cpu_ms"])));
    for port in list(&status["ports"]) {
        let state = if port["listening"] == true { "listening" } else { "not listening" };
        let _ = writeln!(text, "{}/{}: {state}", word(&port["host"]), word(&port["transport"]));
    }
    text.push('\n');
    text.push_str(&workers(list(&status["workers"])));
    for (refusal, count) in status["refusals"].as_object().into_iter().flatten() {
        let _ = write!(text, "\nrefused {} times: {refusal}\n", number(count));
    }
    text
}

const COLUMNS: [&str; 7] = ["GUEST", "STATE", "DESCRIPTORS", "CONNECTIONS", "WAITING", "MEMORY / LIMIT", "RESTARTS"];

fn workers(workers: &[Value]) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    let mut failures = String::new();
    for (index, worker) in workers.iter().enumerate() {
        let memory = format!("{} / {}", mebibytes(&worker["memory_bytes"]), mebibytes(&worker["memory_limit_bytes"]));
        rows.push([
            index.to_string(),
            if worker["running"] == true { "running" } else { "ended" }.to_owned(),
            number(&worker["descriptors"]).to_string(),
            number(&worker["connections"]).to_string(),
            number(&worker["waiting"]).to_string(),
            memory,
            number(&worker["restarts"]).to_string(),
        ]);
        if let (Some(reason), Some(ago)) = (worker["last_failure"].as_str(), worker["last_failure_s"].as_u64()) {
            let _ = write!(failures, "\nguest {index} failed {} ago: {reason}\n", time(ago));
        }
    }
    aligned(&rows) + &failures
}

fn aligned(rows: &[[String; 7]]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn mebibytes(bytes: &Value) -> String {
    format!("{:.1} MiB", number(bytes) as f64 / f64::from(1 << 20))
}

fn seconds(millis: u64) -> String {
    format!("{:.2} s", millis as f64 / 1000.0)
}

fn time(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_a_table() {
        let worker = json!({
            "running": true, "descriptors": 5, "connections": 2, "waiting": 0, "memory_bytes": 1_179_648,
            "memory_limit_bytes": 56 << 20, "memory_refused": 0, "restarts": 1,
            "last_failure": "wasm `unreachable` instruction executed", "last_failure_s": 3700,
        });
        let status = json!({
            "module": "/server.wasm", "stage": "serving", "uptime_s": 65, "cpu_ms": 1234,
            "ports": [{ "host": "0.0.0.0:8080", "transport": "tcp", "guest_port": 8080, "listening": true }],
            "workers": [worker], "refusals": { "the guest may not connect to 1.2.3.4:80": 3 },
        });
        let want = "\
/server.wasm: serving for 1 min 5 s, 1.23 s of CPU time
0.0.0.0:8080/tcp: listening

GUEST   STATE     DESCRIPTORS   CONNECTIONS   WAITING   MEMORY / LIMIT       RESTARTS
0       running   5             2             0         1.1 MiB / 56.0 MiB   1

guest 0 failed 1 h 1 min ago: wasm `unreachable` instruction executed

refused 3 times: the guest may not connect to 1.2.3.4:80
";
        assert_eq!(table(&status), want);
    }
}
