use serde_json::json;

use super::*;
use crate::task::{ContentType, Method, Misfire, MisfirePolicy, Options, Overlap};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn read(json: &str) -> Result<NewTask, Error> {
    let config = Config::default();
    let rules = Rules::new(&config, Arc::default());
    Rules { task_bytes_max: 100_000, ahead_ms_max: 1_000_000_000, ..rules }.read(json, NOW)
}

/// A sound task of type 1 with some fields replaced; null takes one away.
fn periodic(change: serde_json::Value) -> Result<NewTask, Error> {
    changed(json!({"type": 1, "format": "*/5 * * * *", "callback": {"url": "http://h/p"}}), change)
}

/// The same of type 2.
fn once(change: serde_json::Value) -> Result<NewTask, Error> {
    changed(json!({"type": 2, "format": "1790000001", "callback": {"url": "http://h/p"}}), change)
}

fn changed(mut task: serde_json::Value, change: serde_json::Value) -> Result<NewTask, Error> {
    let fields = task.as_object_mut().unwrap();
    for (key, value) in change.as_object().unwrap() {
        match value.is_null() {
            true => fields.remove(key),
            false => fields.insert(key.clone(), value.clone()),
        };
    }
    read(&task.to_string())
}

#[track_caller]
fn refused(task: Result<NewTask, Error>, code: u16, message: &str) {
    let error = task.unwrap_err();
    assert_eq!(error.code().number(), code, "{error}");
    assert!(error.message().contains(message), "{error}");
}

#[test]
fn a_task_is_read_as_it_was_sent() {
    let task = read(
        r#" {"type": 1, "format": "0 9 * * *", "timezone": "UTC", "task_id": "a:1", "name": "n", "tags": {"k": "v"},
             "callback": {"url": "https://h:8/p?q", "body": { "b" : [1.50,"\u00e4"]  } }} "#,
    )
    .unwrap();
    assert_eq!((task.id.to_string().as_str(), task.id_is_ours), ("a:1", false));
    assert_eq!(task.spec.timing, Timing::Periodic { format: "0 9 * * *".into(), timezone: "UTC".into() });
    assert_eq!(task.spec.callback.body, r#"{ "b" : [1.50,"\u00e4"]  }"#);
    assert_eq!((task.spec.name.as_deref(), task.spec.tags["k"].as_str()), (Some("n"), "v"));
}

#[test]
fn what_is_absent_has_its_default() {
    let task = periodic(json!({})).unwrap();
    assert!(task.id_is_ours);
    assert_eq!(task.spec.callback.body, "{}");
    assert_eq!(task.spec.timing, Timing::Periodic { format: "*/5 * * * *".into(), timezone: "UTC".into() });
    assert_eq!((task.spec.name, task.spec.tags.len()), (None, 0));
}

#[test]
fn any_json_is_a_body() {
    for body in ["null", "0", "\"x\"", "[]", "[[[[1]]]]"] {
        let text = format!(r#"{{"type":2,"delay_ms":1,"callback":{{"url":"http://h","body":{body}}}}}"#);
        assert_eq!(read(&text).unwrap().spec.callback.body, body);
    }
}

#[test]
fn a_body_is_nested_240_levels_at_most() {
    let with =
        |body: &str| read(&format!(r#"{{"type":2,"delay_ms":1,"callback":{{"url":"http://h","body":{body}}}}}"#));
    let arrays = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let objects = |levels: usize| r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels);
    for sound in [arrays(240), objects(240), format!("[{0},{0}]", arrays(239))] {
        assert_eq!(with(&sound).unwrap().spec.callback.body, sound);
    }
    for deep in [arrays(241), objects(241), format!("[1,{},2]", arrays(240)), arrays(40_000)] {
        refused(with(&deep), 1000, "callback.body: nested deeper than 240 levels");
    }
    // Brackets in texts are no levels, whatever is escaped there.
    let text = format!(r#"["\"{0}","\\",{{"{0}\\":"{0}\\\""}},[]]"#, "[{".repeat(500));
    assert_eq!(with(&text).unwrap().spec.callback.body, text);
    refused(with(&format!(r#"["\\",{}]"#, arrays(240))), 1000, "nested deeper");
}

#[test]
fn a_header_stands_once_in_whatever_case() {
    let headers = |headers: serde_json::Value| periodic(json!({"callback": {"url": "http://h", "headers": headers}}));
    assert!(headers(json!({"X-A": "1", "x-b": "2"})).is_ok());
    refused(headers(json!({"X-A": "1", "x-a": "1"})), 1000, "callback.headers.x-a: given twice, once in another case");
}

#[test]
fn a_wrong_shape_is_told_with_its_field() {
    refused(read("{"), 1000, "the body is not JSON");
    refused(read(""), 1000, "the body is not JSON");
    refused(read("{} x"), 1000, "missing");
    refused(read("[1]"), 1000, "the body: invalid type: array, expected an object");
    refused(read(&"[".repeat(50_000)), 1000, "the body");
    refused(periodic(json!({"x": 1})), 1000, "x: unknown field, expected one of `type`, `format`");
    refused(periodic(json!({"type": null})), 1000, "type: missing");
    refused(periodic(json!({"type": "1"})), 1000, "type: invalid type: string \"1\", expected an integer");
    refused(periodic(json!({"format": 5})), 1000, "format: invalid type: integer `5`, expected a string");
    refused(periodic(json!({"callback": null})), 1000, "callback: missing");
    refused(periodic(json!({"callback": {}})), 1000, "callback.url: missing");
    refused(periodic(json!({"callback": ["http://h"]})), 1000, "callback: invalid type: array, expected an object");
    refused(periodic(json!({"callback": {"url": 5}})), 1000, "callback.url: invalid type");
    refused(periodic(json!({"callback": {"url": "http://h", "timeout": 5}})), 1000, "callback.timeout: unknown");
    refused(periodic(json!({"tags": {"a": 1}})), 1000, "tags.a: invalid type");
    refused(periodic(json!({"tags": ["a"]})), 1000, "tags: invalid type: array, expected an object");
    refused(periodic(json!({"name": {}})), 1000, "name: invalid type: object, expected a string");
    refused(periodic(json!({"max_runs": 1.5})), 1000, "max_runs: invalid type: number `1.5`, expected an integer");
    refused(periodic(json!({"on_success": {}})), 1000, "on_success: invalid type: object, expected an array");
    refused(
        periodic(json!({"max_runs": "a sequence"})),
        1000,
        "invalid type: string \"a sequence\", expected an integer",
    );
    refused(periodic(json!({"task_id": "a b"})), 1000, "task_id: has the character");
    refused(periodic(json!({"task_id": ""})), 1000, "task_id: is 0 characters");
    refused(periodic(json!({"format": null})), 1000, "format: missing");
    for field in ["format", "delay_ms", "task_id", "name", "tags", "timezone"] {
        let text = format!(r#"{{"type":2,"callback":{{"url":"http://h"}},"{field}":null}}"#);
        refused(read(&text), 1000, &format!("{field}: invalid type: null"));
    }
}

#[test]
fn the_lists_of_the_known_fields_are_whole() {
    let known = |error: serde_json::Error| {
        let text = error.to_string();
        let names = text.split('`').skip(3).step_by(2).map(str::to_owned);
        names.collect::<Vec<_>>()
    };
    let of_task = serde_json::from_str::<Sent<'_>>(r#"{"unknown":1}"#).unwrap_err();
    assert_eq!(known(of_task), TASK_FIELDS);
    let of_callback = serde_json::from_str::<SentCallback<'_>>(r#"{"unknown":1}"#).unwrap_err();
    assert_eq!(known(of_callback), CALLBACK_FIELDS);
    for unknown in [json!({"callback": {"url": "http://h", "x": null}}), json!({"retry": {"x": null}})] {
        refused(periodic(unknown), 1000, "x: unknown field");
    }
    refused(read(r#"{"type":2,"delay_ms":1,"callback":{"url":"http://h"},"x":null}"#), 1000, "x: unknown field");
}

#[test]
fn nothing_is_given_twice_and_nothing_trails() {
    let task = r#"{"type":2,"delay_ms":1,"callback":{"url":"http://h"}}"#;
    assert!(read(task).is_ok());
    refused(read(&format!("{task}{task}")), 1000, "trailing characters");
    refused(read(&task.replace("{\"type\":2", "{\"type\":1,\"type\":2")), 1000, "type: given twice");
    refused(read(&task.replace("\"url\"", "\"url\":\"x\",\"url\"")), 1000, "callback.url: given twice");
    refused(read(&task.replace("{\"type\"", "{\"tags\":{\"a\":\"1\",\"a\":\"2\"},\"type\"")), 1000, "tags");
}

#[test]
fn a_type_is_1_or_2() {
    for kind in [json!(0), json!(3), json!(-1), json!(1e300)] {
        refused(periodic(json!({"type": kind})), 1020, "type");
    }
}

#[test]
fn a_periodic_task_has_a_schedule_and_a_zone() {
    refused(periodic(json!({"format": "61 * * * *"})), 1005, "format");
    refused(periodic(json!({"format": "*".repeat(1025)})), 1006, "1024");
    refused(periodic(json!({"timezone": "Mars/Olympus"})), 1007, "timezone");
    refused(periodic(json!({"delay_ms": 1})), 1000, "delay_ms: only for type 2");
}

#[test]
fn a_task_that_runs_once_has_a_time_or_a_delay() {
    let due = |task: Result<NewTask, Error>| task.unwrap().spec.timing;
    let at = |format: &str, due| Timing::At { format: format.into(), due: Timestamp(due) };
    assert_eq!(due(once(json!({}))), at("1790000001", 1_790_000_001_000));
    assert_eq!(due(once(json!({"format": "1790000001234"}))), at("1790000001234", 1_790_000_001_234));
    assert_eq!(due(once(json!({"format": "1000000000"}))), at("1000000000", 1_000_000_000_000), "past: judged later");
    assert_eq!(due(once(json!({"format": null, "delay_ms": 0}))), Timing::After { delay_ms: 0 });
    for bad in ["", "179000000", "17900000011", "-790000001", "+790000001", " 790000001", "١790000001", "* * * * *"] {
        refused(once(json!({"format": bad})), 1001, "10 digits");
    }
    for date in ["2030-03-17T17:46:40Z", "2030-03-17 19:46:40+02"] {
        refused(once(json!({"format": date})), 1001, "; write 1900000000");
    }
    let long = once(json!({"format": "9".repeat(50_000)})).unwrap_err();
    assert!(long.to_string().len() < 300, "{long}");
    refused(once(json!({"format": "1999999999"})), 1006, "1000000000 ms");
    refused(once(json!({"format": null, "delay_ms": 1_000_000_001})), 1006, "1000000000 ms");
    refused(once(json!({"format": null, "delay_ms": -1})), 1000, "negative");
    refused(once(json!({"format": null, "delay_ms": 0.5})), 1000, "expected an integer");
    refused(once(json!({"format": null})), 1000, "format: missing");
    refused(once(json!({"delay_ms": 1})), 1000, "only one");
    refused(once(json!({"timezone": "UTC"})), 1000, "timezone: only for type 1");
}

#[test]
fn a_url_is_absolute_and_http() {
    let with = |url: &str| periodic(json!({"callback": {"url": url}}));
    for good in
        ["http://h", "HTTPS://H.example:8443/a?b=c#d", "http://[::1]:80/", "http://127.0.0.1", "http://ä.example/ö"]
    {
        assert_eq!(with(good).unwrap().spec.callback.url, good);
    }
    let bad = [
        "",
        "h/p",
        "/p",
        "//h/p",
        "http:h",
        "http:/h",
        "http://",
        "http:///h",
        "http://:80/",
        "ftp://h/",
        "file:///etc",
        "javascript:alert(1)",
        "http://u:p@h/",
        "http://u@h/",
        "http://h:99999/",
        "http://h:0/",
        " http://h",
        "http://h/a b",
        "http://h/\n",
        "http://[::1/",
        "http://a..b:x/",
    ];
    for bad in bad {
        refused(with(bad), 1003, "callback.url: ");
    }
    refused(with(&format!("http://h/{}", "x".repeat(2048))), 1006, "2048");
}

#[test]
fn names_and_tags_and_the_whole_are_bounded() {
    let long = |n: usize| "ä".repeat(n);
    assert!(periodic(json!({"name": long(256), "tags": {long(256): long(256)}})).is_ok());
    refused(periodic(json!({"name": long(257)})), 1006, "name");
    refused(periodic(json!({"tags": {long(257): ""}})), 1006, "tags");
    refused(periodic(json!({"tags": {"a": long(257)}})), 1006, "tags.a");
    let many: BTreeMap<_, _> = (0..65).map(|i| (i.to_string(), "")).collect();
    refused(periodic(json!({"tags": many})), 1006, "64");
    let error = periodic(json!({"callback": {"url": "http://h", "body": "x".repeat(100_000)}})).unwrap_err();
    assert_eq!((error.code().number(), error.status().as_u16()), (1006, 413));
    assert!(error.message().contains("100000"));
}

/// A task with these fields beside what must be there; `callback` beside its URL.
fn with(fields: &str, callback: &str) -> Result<TaskSpec, (u16, String)> {
    let comma = |text: &str| if text.is_empty() { String::new() } else { format!(",{text}") };
    let (fields, callback) = (comma(fields), comma(callback));
    let json = format!(r#"{{"type":1,"format":"* * * * *","callback":{{"url":"http://a/"{callback}}}{fields}}}"#);
    read(&json).map(|task| task.spec).map_err(|e| (e.code().number(), e.message().to_owned()))
}

#[test]
fn options_are_read_as_they_are_meant() {
    let spec = with(
        r#""start_time":1900000000,"end_time":1900000060,"max_runs":3,"jitter_ms":500,"run_now":true,"retain_s":60,"overlap":"queue","misfire":{"policy":"skip"},
           "retry":{"max_attempts":2,"max_elapsed_ms":null}"#,
        r#""method":"PUT","content_type":"text/plain","body":"x","headers":{"X-A":"b"},"timeout_ms":100,
           "expect":{"status":[[200,204],[404,404]],"body_contains":"ok"}"#,
    )
    .unwrap();
    let Options { start, end, max_runs, jitter_ms, run_now, retain_s, overlap, misfire, .. } = spec.options;
    assert_eq!(overlap, Overlap::Queue);
    assert_eq!(misfire, Some(Misfire { policy: MisfirePolicy::Skip, window_ms: 60_000 }));
    assert_eq!((start, end), (Some(Timestamp::from_secs(1_900_000_000)), Some(Timestamp::from_secs(1_900_000_060))));
    assert_eq!((max_runs, jitter_ms, run_now, retain_s), (Some(3), 500, true, Some(60)));
    let retry = Rules::new(&Config::default(), Arc::default()).defaults.retry;
    assert_eq!(spec.retry, Some(Retry { max_attempts: 2, ..retry }));
    let callback = spec.callback;
    assert_eq!(
        (callback.method, callback.content_type, callback.body.as_str()),
        (Method::Put, ContentType::Text, "\"x\"")
    );
    assert_eq!((callback.headers["X-A"].as_str(), callback.timeout_ms), ("b", Some(100)));
    assert!(callback.expect.takes(404) && !callback.expect.takes(205));
}

#[test]
fn an_option_that_cannot_be_meant_is_refused_by_name() {
    for (fields, callback, named) in [
        (r#""start_time":2,"end_time":1"#, "", "end_time"),
        (r#""max_runs":0"#, "", "max_runs"),
        (r#""jitter_ms":-1"#, "", "jitter_ms"),
        (r#""run_now":1"#, "", "run_now"),
        (r#""overlap":"forbid""#, "", "overlap"),
        (r#""misfire":{"policy":"none"}"#, "", "misfire.policy"),
        (r#""misfire":{"window_ms":-1}"#, "", "misfire.window_ms"),
        (r#""retry":{"max_attempts":0}"#, "", "retry.max_attempts"),
        (r#""retry":{"min_backoff_ms":9,"max_backoff_ms":8}"#, "", "retry.max_backoff_ms"),
        (r#""retry":{"multiplier":0.5}"#, "", "retry.multiplier"),
        (r#""retry":{"tries":1}"#, "", "retry.tries"),
        ("", r#""method":"HEAD""#, "callback.method"),
        ("", r#""content_type":"text/html""#, "callback.content_type"),
        ("", r#""content_type":"text/plain","body":{}"#, "callback.body"),
        ("", r#""content_type":"application/x-www-form-urlencoded","body":{"a":[1]}"#, "callback.body"),
        ("", r#""timeout_ms":99"#, "callback.timeout_ms"),
        ("", r#""expect":{"status":[[300,200]]}"#, "callback.expect.status"),
        ("", r#""expect":{"status":[[1,2]]}"#, "callback.expect.status"),
        ("", r#""headers":{"Host":"x"}"#, "callback.headers.Host"),
        ("", r#""headers":{"XCRON-Fence":"x"}"#, "callback.headers.XCRON-Fence"),
        ("", r#""headers":{"Webhook-Id":"x"}"#, "callback.headers.Webhook-Id"),
        ("", r#""headers":{"a b":"x"}"#, "callback.headers.a b"),
        ("", r#""headers":{"a":"x\ny"}"#, "callback.headers.a"),
    ] {
        let (code, message) = with(fields, callback).unwrap_err();
        assert_eq!(code, 1000, "{fields} {callback}: {message}");
        assert!(message.starts_with(named), "{named}: {message}");
    }
}

#[test]
fn a_default_that_is_spelled_out_is_as_if_it_were_left_out() {
    let plain = periodic(json!({})).unwrap().spec;
    let callback = |options: serde_json::Value| {
        let mut callback = json!({"url": "http://h/p"});
        options.as_object().unwrap().iter().for_each(|(name, value)| callback[name] = value.clone());
        json!({ "callback": callback })
    };
    for spelled in [
        callback(json!({"expect": {}})),
        callback(json!({"expect": {"status": [[200, 299]]}})),
        callback(json!({"expect": {"status": [], "body_contains": ""}})),
        callback(json!({"timeout_ms": 30_000, "method": "POST", "headers": {}, "body": {}})),
        callback(json!({"content_type": "application/json"})),
        json!({"retry": {}}),
        json!({"retry": {"max_attempts": 5, "min_backoff_ms": 1000, "max_backoff_ms": 60_000, "multiplier": 2,
                         "max_elapsed_ms": null}}),
        json!({"retry": {"multiplier": 2.0}}),
        json!({"misfire": {}}),
        json!({"misfire": {"policy": "latest", "window_ms": 60_000}}),
        json!({"retain_s": 604_800, "start_time": 0, "name": "", "tags": {}, "secrets": []}),
        json!({"jitter_ms": 0, "run_now": false, "overlap": "allow", "delivery": "at_least_once", "timezone": "UTC"}),
        json!({"on_success": [], "on_failure": []}),
    ] {
        assert_eq!(periodic(spelled.clone()).unwrap().spec, plain, "{spelled}");
    }
    let alert = |on: serde_json::Value| periodic(json!({ "alert": on })).unwrap().spec;
    assert_eq!(alert(json!({"url": "http://h/"})), alert(json!({"url": "http://h/", "on": ["failed"]})));
    for other in [
        callback(json!({"expect": {"status": [[200, 298]]}})),
        callback(json!({"timeout_ms": 29_999})),
        json!({"retry": {"max_elapsed_ms": 1000}}),
        json!({"misfire": {"policy": "skip"}}),
        json!({"retain_s": 0, "name": " "}),
    ] {
        assert_ne!(periodic(other.clone()).unwrap().spec, plain, "{other}");
    }
    let every = |start: serde_json::Value| periodic(json!({"format": "@every 90s", "start_time": start})).unwrap().spec;
    assert_ne!(every(json!(0)), every(json!(null)), "an interval counts from its start");
}
