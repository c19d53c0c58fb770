//! The messages of peers, whatever they hold.

use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest};
use serde::de::DeserializeOwned;
use serde::Serialize;

use super::wire::{
    Ballot, ClaimAnswer, ClaimRequest, Opinion, ProposeAnswer, ProposeRequest, Question, ReadIndexAnswer, Status,
    TakeOver, TargetsAnswer,
};
use super::TypeConfig;
use crate::command::Batch;

/// Reads a message as each call would, and each answer as its caller would. What is understood is written and read
/// again, and must stay the same.
pub(crate) fn message(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 14 {
        0 => again::<AppendEntriesRequest<TypeConfig>>(rest),
        1 => again::<Ballot>(rest),
        2 => again::<InstallSnapshotRequest<TypeConfig>>(rest),
        3 => again::<Status>(rest),
        4 => again::<ClaimRequest>(rest),
        5 => again::<ClaimAnswer>(rest),
        6 => again::<ProposeRequest>(rest),
        7 => again::<ProposeAnswer>(rest),
        8 => again::<ReadIndexAnswer>(rest),
        10 => again::<TargetsAnswer>(rest),
        11 => again::<Question>(rest),
        12 => again::<Opinion>(rest),
        13 => again::<TakeOver>(rest),
        _ => {
            if let Ok(batch) = Batch::decode(rest) {
                let bytes = batch.encode().unwrap_or_else(|e| panic!("{e}"));
                let read = Batch::decode(&bytes).unwrap_or_else(|e| panic!("{e}"));
                // As bytes: a number that is none is not equal to itself.
                assert_eq!(read.encode().ok(), Some(bytes));
            }
        }
    }
}

fn again<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(message) = postcard::from_bytes::<T>(data) {
        let bytes = postcard::to_stdvec(&message).unwrap_or_else(|e| panic!("{e}"));
        let read: T = postcard::from_bytes(&bytes).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(postcard::to_stdvec(&read).ok(), Some(bytes));
    }
}
