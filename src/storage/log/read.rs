//! Reading entries back: from the cache, or from the segments with every checksum verified.

use openraft::{Entry, RaftTypeConfig};

use super::appender::Segment;
use super::error::Error;
use super::index::Slot;
use super::record::{judge, Body, Header, Kind};
use super::state::Shared;
use crate::seam;
use std::os::unix::fs::FileExt;

/// Records that lie side by side are read in pieces of about this size.
const READ_BYTES: u64 = 1 << 20;

/// Entries that are on disk and not in the cache.
struct OnDisk {
    records: Vec<(u64, Slot)>,
    segments: Vec<Segment>,
    salt: u64,
}

/// The entries from `from` to before `to` that the log holds; stops before `max_bytes`, after at least one.
pub(super) async fn read<C>(
    shared: &Shared<C>,
    salt: u64,
    from: u64,
    to: u64,
    max_bytes: u64,
) -> Result<Vec<Entry<C>>, Error>
where
    C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>,
    C::D: Clone,
{
    let (disk, cached) = {
        let s = shared.lock();
        s.check()?;
        let from = from.max(s.index.first());
        let mut end = from;
        let mut bytes = 0;
        while let Some(slot) = s.index.slot(end).filter(|_| end < to) {
            bytes += u64::from(slot.len);
            if bytes > max_bytes && end > from {
                break;
            }
            end += 1;
        }
        let split = s.cache_first().clamp(from, end);
        let cached: Vec<_> = if split < end { s.cached(split, end).cloned().collect() } else { Vec::new() };
        let records: Vec<_> = (from..split).filter_map(|index| s.index.slot(index).map(|slot| (index, slot))).collect();
        let segments = match (records.first(), records.last()) {
            (Some((_, first)), Some((_, last))) => {
                s.segments.iter().filter(|x| (first.segment..=last.segment).contains(&x.id)).cloned().collect()
            }
            _ => Vec::new(),
        };
        (OnDisk { records, segments, salt }, cached)
    };
    if disk.records.is_empty() {
        return Ok(cached);
    }
    let mut entries = match tokio::runtime::Handle::try_current() {
        Ok(_) => seam::blocking(move || disk.read()).await.unwrap_or(Err(Error::WriterDied))?,
        Err(_) => disk.read()?,
    };
    entries.extend(cached);
    Ok(entries)
}

impl OnDisk {
    fn read<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>>(&self) -> Result<Vec<Entry<C>>, Error> {
        let mut entries = Vec::with_capacity(self.records.len());
        let mut buf = Vec::new();
        let mut rest = &self.records[..];
        while let Some((index, first)) = rest.first() {
            let Some(segment) = self.segments.iter().find(|s| s.id == first.segment) else {
                return Err(Error::Codec { index: *index, detail: format!("segment {} is not open", first.segment) });
            };
            let end = |slot: &Slot| u64::from(slot.offset) + u64::from(slot.len);
            let run = rest
                .iter()
                .take_while(|(_, s)| {
                    s.segment == first.segment && end(s).saturating_sub(u64::from(first.offset)) <= READ_BYTES
                })
                .count()
                .max(1);
            let base = u64::from(first.offset);
            buf.resize((end(&rest[run - 1].1) - base) as usize, 0);
            segment.file.read_exact_at(&mut buf, base).map_err(Error::io(&segment.path, "read"))?;
            for (index, slot) in &rest[..run] {
                let at = (u64::from(slot.offset) - base) as usize;
                let record = &buf[at..at + slot.len as usize];
                entries.push(self.decode(segment, *index, slot, record)?);
            }
            rest = &rest[run..];
        }
        Ok(entries)
    }

    fn decode<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>>(
        &self,
        segment: &Segment,
        index: u64,
        slot: &Slot,
        record: &[u8],
    ) -> Result<Entry<C>, Error> {
        let bad = |detail: &str| Error::corrupt(&segment.path, u64::from(slot.offset), detail);
        let header = Header::decode(record, self.salt).ok_or_else(|| bad("a record's header fails its checksum"))?;
        if header.kind != Kind::Entry || header.id.index != index || header.framed_len() != record.len() {
            return Err(bad("another record lies here than was written"));
        }
        if judge(&header, record, u64::from(slot.offset)) != Body::Whole {
            return Err(bad("a record fails its checksum"));
        }
        let payload = &record[super::record::HEADER..super::record::HEADER + header.len as usize];
        let entry: Entry<C> =
            postcard::from_bytes(payload).map_err(|e| Error::Codec { index, detail: e.to_string() })?;
        if entry.log_id != header.id {
            return Err(bad("an entry's id is not its record's"));
        }
        Ok(entry)
    }
}
