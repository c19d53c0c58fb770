//! Commands as bytes, on their way into a batch.

use bytes::Bytes;

use super::{Command, WriteId, WRITE_ID_BYTES};
use crate::id::TaskId;
use crate::task::Timing;

/// A command as it stands in a [`Batch`](super::Batch): encoded once, where it is submitted. Messages and log entries are
/// put together from such bytes, so that each bound on them counts the bytes that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: Bytes,
    name: Option<WriteId>,
    creates: bool,
    founds: bool,
    needs_name: bool,
    zone: Option<Box<str>>,
}

impl Encoded {
    /// Encodes a command.
    ///
    /// # Errors
    /// Where a field cannot be written, which no command of this version has.
    pub fn of(command: &Command) -> Result<Encoded, postcard::Error> {
        Ok(Encoded::with(command, postcard::to_stdvec(command)?.into()))
    }

    /// Takes over bytes that another node has encoded, if they are exactly one command of this version.
    ///
    /// # Errors
    /// Any other bytes.
    pub fn read(bytes: Bytes) -> Result<Encoded, postcard::Error> {
        let (command, rest) = postcard::take_from_bytes::<Command>(&bytes)?;
        if !rest.is_empty() {
            return Err(postcard::Error::DeserializeBadEncoding);
        }
        Ok(Encoded::with(&command, bytes))
    }

    fn with(command: &Command, bytes: Bytes) -> Encoded {
        let creates = matches!(command, Command::Create { .. });
        let founds = matches!(command, Command::FoundCluster { .. } | Command::ClaimNode { .. });
        let timing = match command {
            Command::Create { spec, .. } | Command::Update { spec, .. } => Some(&spec.timing),
            _ => None,
        };
        let zone = match timing {
            Some(Timing::Periodic { timezone, .. }) => Some(timezone.as_str().into()),
            _ => None,
        };
        Encoded { bytes, name: None, creates, founds, needs_name: command.needs_name(), zone }
    }

    /// The same, under this name.
    pub fn named(self, name: Option<WriteId>) -> Encoded {
        Encoded { name, ..self }
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<WriteId> {
        self.name
    }

    /// Whether it may not be sent to where it may have to be sent again.
    pub fn wants_name(&self) -> bool {
        self.needs_name && self.name.is_none()
    }

    /// How many bytes it has, with its name.
    #[expect(clippy::len_without_is_empty, reason = "no command is empty")]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.name.map_or(0, |_| WRITE_ID_BYTES)
    }

    /// Whether it is a [`Command::Create`].
    pub fn creates(&self) -> bool {
        self.creates
    }

    /// The id of the task that it creates, if it is a [`Command::Create`].
    pub fn created(&self) -> Option<TaskId> {
        match postcard::from_bytes(&self.bytes) {
            Ok(Command::Create { id, .. }) => Some(id),
            _ => None,
        }
    }

    /// Whether the cluster is founded with it: its identity, or the claim of a store.
    pub fn founds(&self) -> bool {
        self.founds
    }

    /// The zone that its task names.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The bytes of the command, without its name.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}
