//! The one map from what goes wrong to the code, the HTTP status and the message that a caller sees.

use std::borrow::Cow;

use axum::http::{Method, StatusCode};

use crate::command::Refusal;
use crate::node;

/// The codes of the API, apart from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request is not what the call takes: not JSON, or a field or parameter is unknown, missing or wrong.
    Malformed,
    /// Type 2: `format` is not a timestamp.
    NotATime,
    /// Type 2: the time is past.
    Past,
    /// `callback.url` cannot be called.
    BadUrl,
    /// Our fault.
    Internal,
    /// Type 1: `format` is not a schedule.
    BadFormat,
    /// Over a limit.
    OverLimit,
    /// No such time zone.
    UnknownZone,
    /// The schedule never fires.
    NeverFires,
    /// `type` is neither 1 nor 2.
    UnknownType,
    /// The caller may not do this: a browser sent it from another origin.
    Forbidden,
    /// No such task, run or path.
    NotFound,
    /// In conflict with what exists.
    Conflict,
    /// No leader: nothing was written.
    NoLeader,
    /// It may have been written.
    Unknown,
    /// Too many requests, or too many tasks.
    TooMany,
    /// The storage is full or failing.
    Storage,
}

impl Code {
    /// As it stands in an answer.
    pub const fn number(self) -> u16 {
        match self {
            Code::Malformed => 1000,
            Code::NotATime => 1001,
            Code::Past => 1002,
            Code::BadUrl => 1003,
            Code::Internal => 1004,
            Code::BadFormat => 1005,
            Code::OverLimit => 1006,
            Code::UnknownZone => 1007,
            Code::NeverFires => 1008,
            Code::UnknownType => 1020,
            Code::Forbidden => 1031,
            Code::NotFound => 1040,
            Code::Conflict => 1041,
            Code::NoLeader => 1050,
            Code::Unknown => 1051,
            Code::TooMany => 1070,
            Code::Storage => 1071,
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> StatusCode {
        match self {
            Code::Malformed
            | Code::NotATime
            | Code::Past
            | Code::BadUrl
            | Code::BadFormat
            | Code::OverLimit
            | Code::UnknownZone
            | Code::NeverFires
            | Code::UnknownType => StatusCode::BAD_REQUEST,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Conflict => StatusCode::CONFLICT,
            Code::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
            Code::Unknown => StatusCode::GATEWAY_TIMEOUT,
            Code::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Code::Storage => StatusCode::INSUFFICIENT_STORAGE,
        }
    }
}

/// Why a call was not done, as its caller is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", code.number())]
pub struct Error {
    code: Code,
    status: StatusCode,
    message: Cow<'static, str>,
    cause: Option<String>,
    ends_connection: bool,
}

/// The longest message, in bytes: it may quote what the caller sent, and that may be a megabyte.
const MESSAGE_MAX: usize = 512;

impl Error {
    /// With the status of the code.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Error {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
            message = format!("{}…", &message[..end]).into();
        }
        Error { code, status: code.status(), message, cause: None, ends_connection: false }
    }

    /// 1000: the request is not what the call takes.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Code::Malformed, message)
    }

    /// 1006: more than a limit allows.
    pub fn over_limit(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Code::OverLimit, message)
    }

    /// 1006 with 413: more bytes than a limit allows.
    pub fn too_large(what: &str, limit: usize) -> Error {
        let message = format!("{what} is larger than the limit of {limit} bytes");
        Error { status: StatusCode::PAYLOAD_TOO_LARGE, ..Error::over_limit(message) }
    }

    /// 1000 with 408: the request took too long to arrive.
    pub fn too_slow(message: impl Into<Cow<'static, str>>) -> Error {
        Error { status: StatusCode::REQUEST_TIMEOUT, ..Error::malformed(message) }
    }

    /// 1070: too much is on its way to callers who do not take it.
    pub fn untaken() -> Error {
        Error::new(Code::TooMany, "the answers that wait to be taken are over limits.buffered_bytes_max")
    }

    /// 1004: our fault; `cause` is for the log alone.
    pub fn internal(cause: impl Into<String>) -> Error {
        let message = "internal error; the log has the cause under this uuid";
        Error { cause: Some(cause.into()), ..Error::new(Code::Internal, message) }
    }

    /// 1040: the path is none of ours.
    pub fn no_such_path(path: &str) -> Error {
        Error::new(Code::NotFound, format!("no such path: {path}"))
    }

    /// 1000 with 405: the path is ours, the method is not.
    pub fn wrong_method(method: &Method) -> Error {
        let message = format!("the method {method} is not allowed here; the header `allow` names those that are");
        Error { status: StatusCode::METHOD_NOT_ALLOWED, ..Error::malformed(message) }
    }

    /// Of a read: one that cannot be confirmed has changed nothing, so its outcome is never unknown.
    pub fn of_read(error: node::Error) -> Error {
        match error {
            node::Error::NoLeader | node::Error::Unknown(_) => {
                Error::new(Code::NoLeader, "no leader confirmed the read in time; consistency=local reads without one")
            }
            other => other.into(),
        }
    }

    /// The same of the look before a write, which can be made nowhere else.
    pub fn before_write(self) -> Error {
        match self.code {
            Code::NoLeader => Error::new(Code::NoLeader, "no leader was found in time; nothing was written"),
            _ => self,
        }
    }

    /// The same, after which the connection is closed: part of a request is left on it.
    pub fn and_close(mut self) -> Error {
        self.ends_connection = true;
        self
    }

    /// The same; the message also tells the caller the id with which to try again.
    pub fn with_retry_id(mut self, id: &crate::id::TaskId) -> Error {
        if self.code == Code::Unknown {
            self.message = format!("{}; retry with the task_id {id}", self.message).into();
        }
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the caller is told.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What only the log is told.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Whether the connection cannot be used any longer.
    pub fn ends_connection(&self) -> bool {
        self.ends_connection
    }
}

impl From<node::Error> for Error {
    fn from(error: node::Error) -> Error {
        let code = match &error {
            node::Error::NoLeader | node::Error::Stopping => Code::NoLeader,
            node::Error::Unknown(_) => Code::Unknown,
            node::Error::Busy => Code::TooMany,
            node::Error::TooLarge { .. } => {
                return Error { status: StatusCode::PAYLOAD_TOO_LARGE, ..Error::over_limit(error.to_string()) }
            }
            node::Error::Cursor => return Error::malformed("cursor: not one that this list gave out"),
            node::Error::Damaged(_) => return Error::internal(error.to_string()),
            node::Error::Storage(_) => {
                let message = "the storage is full or failing; nothing was written";
                return Error { cause: Some(error.to_string()), ..Error::new(Code::Storage, message) };
            }
        };
        Error::new(code, error.to_string())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        let code = match &refusal {
            Refusal::NoSuchTask | Refusal::NoSuchRun => Code::NotFound,
            Refusal::Finished | Refusal::Conflict | Refusal::Cycle(_) | Refusal::OtherStore { .. } => Code::Conflict,
            Refusal::ChainTooLong(_) => Code::OverLimit,
            Refusal::TooManyRuns(_) | Refusal::ChainsAtOnce | Refusal::TooManyTasks(_) => Code::TooMany,
            // No call has a misfire or an outcome recorded.
            Refusal::MisfiresAtOnce | Refusal::OutcomesAtOnce => Code::TooMany,
            Refusal::NoRoom => Code::Storage,
            Refusal::Forgotten { .. } => Code::Unknown,
            Refusal::Past { .. } => Code::Past,
            Refusal::NeverFires(_) => Code::NeverFires,
            Refusal::UnknownZone(_) => Code::UnknownZone,
            Refusal::Unreadable(_) => return Error::internal(refusal.to_string()),
        };
        Error::new(code, refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    fn told(error: impl Into<Error>) -> (u16, u16) {
        let error = error.into();
        (error.code().number(), error.status().as_u16())
    }

    #[test]
    fn each_error_of_the_node_has_its_code_and_status() {
        assert_eq!(told(node::Error::NoLeader), (1050, 503));
        assert_eq!(told(node::Error::Stopping), (1050, 503));
        assert_eq!(told(node::Error::Unknown(Duration::from_secs(5))), (1051, 504));
        assert_eq!(told(node::Error::Busy), (1070, 429));
        assert_eq!(told(node::Error::TooLarge { bytes: 8, limit: 7 }), (1006, 413));
        assert_eq!(told(node::Error::Storage("x".into())), (1071, 507));
        assert_eq!(told(node::Error::Damaged("x".into())), (1004, 500));
        assert_eq!(told(node::Error::Cursor), (1000, 400));
        assert_eq!(told(Error::of_read(node::Error::Unknown(Duration::ZERO))), (1050, 503));
    }

    #[test]
    fn each_refusal_has_its_code_and_status() {
        let (due, now) = (Timestamp(1), Timestamp(2));
        assert_eq!(told(Refusal::NoSuchTask), (1040, 404));
        assert_eq!(told(Refusal::Conflict), (1041, 409));
        assert_eq!(told(Refusal::Past { due, now }), (1002, 400));
        assert_eq!(told(Refusal::NeverFires(crate::command::Never::AtAll)), (1008, 400));
        assert_eq!(told(Refusal::TooManyRuns(7)), (1070, 429));
        assert_eq!(told(Refusal::Cycle(crate::id::TaskId::generate())), (1041, 409));
        assert_eq!(told(Refusal::ChainTooLong(7)), (1006, 400));
        assert_eq!(told(Refusal::ChainsAtOnce), (1070, 429));
        assert_eq!(told(Refusal::TooManyTasks(7)), (1070, 429));
        assert_eq!(told(Refusal::NoRoom), (1071, 507));
        assert_eq!(told(Refusal::Forgotten { before: 7 }), (1051, 504));
        assert_eq!(told(Refusal::UnknownZone("x".into())), (1007, 400));
        assert_eq!(told(Refusal::Unreadable("x".into())), (1004, 500));
        assert_eq!(told(Refusal::OtherStore { node: 1, bound: uuid::Uuid::nil() }), (1041, 409));
    }

    #[test]
    fn what_only_the_log_may_know_is_not_in_the_message() {
        for error in
            [Error::from(node::Error::Storage("/secret".into())), node::Error::Damaged("/secret".into()).into()]
        {
            assert!(!error.message().contains("secret"));
            assert!(error.cause().unwrap().contains("secret"));
        }
    }

    #[test]
    fn a_message_is_bounded_and_cut_between_characters() {
        let error = Error::malformed("ä".repeat(10_000));
        assert!(error.message().len() <= MESSAGE_MAX + 3 && error.message().ends_with("ä…"));
    }
}
