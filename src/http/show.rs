//! Tasks and runs as the API shows them.

use super::answer::{write_value, Object};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::task::{Callback, ContentType, Delivery, Expect, Method, Options, Overlap, TaskSpec, Timing};
use crate::view::{RunView, ShownRun, TaskView};

/// A task: what was sent, and what became of it.
pub(super) fn task(out: &mut Vec<u8>, task: &TaskView) {
    Object::write(out, |o| task_fields(o, task));
}

/// The fields of a task.
pub(super) fn task_fields(o: &mut Object<'_>, task: &TaskView) {
    o.plain("task_id", &task.id);
    definition(o, &task.spec);
    secret_count(o, &task.spec);
    o.plain("create_time", task.created.as_secs());
    o.number("run_count", task.run_count);
    next_time(o, task.next);
    o.plain("state", task.state.name());
    match &task.last_run {
        Some(last) => o.value("last_run", &ShownRun::from(last)),
        None => o.raw("last_run", "null"),
    }
}

/// A definition, in the form in which it is sent, but for its secrets.
pub(super) fn definition(o: &mut Object<'_>, spec: &TaskSpec) {
    o.number("type", spec.type_number());
    match &spec.timing {
        Timing::Periodic { format, timezone } => {
            o.text("format", format);
            o.text("timezone", timezone);
        }
        Timing::At { format, .. } => o.text("format", format),
        Timing::After { delay_ms } => o.number("delay_ms", delay_ms),
    }
    o.object("callback", |o| {
        o.text("url", &spec.callback.url);
        o.raw("body", &spec.callback.body);
        callback_options(o, &spec.callback);
    });
    options(o, &spec.options);
    if let Some(retry) = &spec.retry {
        o.object("retry", |o| {
            o.number("max_attempts", retry.max_attempts);
            o.number("min_backoff_ms", retry.min_backoff_ms);
            o.number("max_backoff_ms", retry.max_backoff_ms);
            o.number("multiplier", format!("{:?}", retry.multiplier));
            o.number_or_null("max_elapsed_ms", retry.max_elapsed_ms);
        });
    }
    if let Some(name) = &spec.name {
        o.text("name", name);
    }
    if !spec.tags.is_empty() {
        o.texts("tags", &spec.tags);
    }
}

/// How many secrets the task has; never which.
fn secret_count(o: &mut Object<'_>, spec: &TaskSpec) {
    if !spec.secrets.is_empty() {
        o.number("secret_count", spec.secrets.len());
    }
}

/// What was sent, or what it means where it was left out, of those options that differ from the default.
fn callback_options(o: &mut Object<'_>, callback: &Callback) {
    if callback.method != Method::default() {
        o.plain("method", callback.method.name());
    }
    if callback.content_type != ContentType::default() {
        o.plain("content_type", callback.content_type.name());
    }
    if !callback.headers.is_empty() {
        o.texts("headers", &callback.headers);
    }
    if let Some(ms) = callback.timeout_ms {
        o.number("timeout_ms", ms);
    }
    if callback.expect != Expect::default() {
        o.object("expect", |o| {
            if !callback.expect.status.is_empty() {
                let ranges = &callback.expect.status;
                o.array("status", ranges, |out, (first, last)| {
                    out.extend_from_slice(format!("[{first},{last}]").as_bytes());
                });
            }
            if let Some(text) = &callback.expect.body_contains {
                o.text("body_contains", text);
            }
        });
    }
}

fn options(o: &mut Object<'_>, options: &Options) {
    if let Some(start) = options.start {
        o.number("start_time", start.as_secs());
    }
    if let Some(end) = options.end {
        o.number("end_time", end.as_secs());
    }
    if let Some(max) = options.max_runs {
        o.number("max_runs", max);
    }
    if options.jitter_ms > 0 {
        o.number("jitter_ms", options.jitter_ms);
    }
    if options.run_now {
        o.raw("run_now", "true");
    }
    if options.overlap != Overlap::default() {
        o.plain("overlap", options.overlap.name());
    }
    if let Some(misfire) = options.misfire {
        o.object("misfire", |o| {
            o.plain("policy", misfire.policy.name());
            o.number("window_ms", misfire.window_ms);
        });
    }
    if options.delivery != Delivery::default() {
        o.plain("delivery", options.delivery.name());
    }
    let ids = |out: &mut Vec<u8>, id: &TaskId| out.extend_from_slice(format!("\"{id}\"").as_bytes());
    if !options.on_success.is_empty() {
        o.array("on_success", &options.on_success, ids);
    }
    if !options.on_failure.is_empty() {
        o.array("on_failure", &options.on_failure, ids);
    }
    if let Some(alert) = &options.alert {
        o.object("alert", |o| {
            o.text("url", &alert.url);
            o.array("on", &alert.on, |out, event| out.extend_from_slice(format!("\"{}\"", event.name()).as_bytes()));
        });
    }
    if let Some(seconds) = options.retain_s {
        o.number("retain_s", seconds);
    }
}

/// When a task is next due, in whole seconds.
pub(super) fn next_time(o: &mut Object<'_>, next: Option<Timestamp>) {
    o.number_or_null("next_time", next.map(Timestamp::as_secs));
}

/// A run with its attempts.
pub(super) fn run(out: &mut Vec<u8>, run: &RunView) {
    write_value(out, &ShownRun::from(run));
}
