//! HEIC and AVIF (ISO/IEC 23008-12): removal of EXIF and XMP metadata. The picture is not decoded.
//!
//! Invariant: cleaning changes only the bytes of metadata items, and boxes that are turned into `free` boxes: `udta`, `uuid` and unknown
//! boxes of the outermost level. The length of the file and the picture stay the same. If the structure of a file is broken, only the
//! metadata that was found before the fault is erased.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::erasure::{Erasures, write_erased};
use super::iso::{self, BoxHeader, broken, next_box};
use super::reader::BlockReader;
use super::{Inspected, Refusal};

/// Maximum size of the list of items and of the list of their places. Pictures of phones have some hundred items.
const MAX_LIST_BYTES: u64 = 1024 * 1024;

/// EXIF metadata without entries, as an item holds it: the offset of the TIFF header, the header, and an empty directory. Some
/// decoders refuse a picture whose EXIF metadata is not valid, so zeros alone are not enough.
const EMPTY_EXIF: &[u8] = b"\0\0\0\0MM\0\x2A\0\0\0\x08\0\0\0\0\0\0";

pub(super) fn inspect(mut inspected: Inspected, source: &Path, target: &Path) -> Result<Inspected, Refusal> {
    let movie = iso::walk(source)?;
    let mut erasures = movie.erasures;
    if let Some(meta) = movie.file_meta {
        match erase_items(&mut BlockReader::open(source)?, &meta, &mut erasures) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    inspected.cleaned = write_erased(source, target, erasures)?;
    Ok(inspected)
}

/// Adds the bytes of all metadata items.
fn erase_items(reader: &mut BlockReader, meta: &BoxHeader, erasures: &mut Erasures) -> io::Result<()> {
    let (mut items, mut places, mut inner_data) = (Items::new(), Vec::new(), 0..0);
    // The content of this box starts with a version and flags.
    reader.seek_to(meta.body + 4)?;
    while let Some(header) = next_box(reader, meta.end)? {
        match &header.kind {
            b"iinf" => items = metadata_items(&list(reader, &header)?).unwrap_or_default(),
            b"iloc" => places = list(reader, &header)?,
            b"idat" => inner_data = header.body..header.end,
            b"udta" | b"uuid" => erasures.erase_box(&header),
            _ => {}
        }
        reader.seek_to(header.end)?;
    }
    if items.is_empty() {
        return Ok(());
    }
    locate(&places, &items, &inner_data, reader.length(), erasures).ok_or_else(broken)
}

fn list(reader: &mut BlockReader, header: &BoxHeader) -> io::Result<Vec<u8>> {
    let size = header.end - header.body;
    if size > MAX_LIST_BYTES {
        return Err(broken());
    }
    // At most `MAX_LIST_BYTES`.
    reader.bytes(size as usize)
}

/// Numbers of different sizes, one behind the other.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// A number of up to eight bytes. A number of no bytes is zero.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        self.bytes(bytes).map(super::reader::big_endian)
    }
}

/// Kinds of metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Metadata {
    Exif,
    Xmp,
}

/// Items with metadata, by their ids.
type Items = HashMap<u64, Metadata>;

/// The items with metadata, from an `iinf` box.
fn metadata_items(list: &[u8]) -> Option<Items> {
    let mut fields = Fields { rest: list };
    let version = fields.number(1)?;
    fields.number(3)?;
    let count = fields.number(if version == 0 { 2 } else { 4 })?;
    let mut found = Items::new();
    for _ in 0..count {
        let Some(size) = fields.number(4).and_then(|size| usize::try_from(size).ok()) else { break };
        let Some(entry) = size.checked_sub(4).and_then(|size| fields.bytes(size)) else { break };
        found.extend(metadata_item(entry));
    }
    Some(found)
}

/// An item from an `infe` box without its size, if the item is metadata.
fn metadata_item(entry: &[u8]) -> Option<(u64, Metadata)> {
    let mut fields = Fields { rest: entry };
    if fields.bytes(4)? != b"infe" {
        return None;
    }
    let version = fields.number(1)?;
    fields.number(3)?;
    let id = fields.number(if version == 3 { 4 } else { 2 })?;
    fields.number(2)?;
    if version < 2 {
        return None;
    }
    // XMP is the only kind of MIME item that cameras write.
    match fields.bytes(4)? {
        b"Exif" => Some((id, Metadata::Exif)),
        b"mime" => Some((id, Metadata::Xmp)),
        _ => None,
    }
}

/// Adds the bytes of items, from an `iloc` box.
fn locate(list: &[u8], items: &Items, inner_data: &Range<u64>, file_bytes: u64, erasures: &mut Erasures) -> Option<()> {
    let mut fields = Fields { rest: list };
    let version = fields.number(1)?;
    fields.number(3)?;
    // The sizes of the numbers, in half bytes.
    let sizes = fields.number(2)? as usize;
    let (offset_bytes, length_bytes) = (sizes >> 12 & 0xF, sizes >> 8 & 0xF);
    let (base_bytes, index_bytes) = (sizes >> 4 & 0xF, if version == 0 { 0 } else { sizes & 0xF });
    if [offset_bytes, length_bytes, base_bytes, index_bytes].iter().any(|bytes| *bytes > 8) {
        return None;
    }
    let count = fields.number(if version < 2 { 2 } else { 4 })?;
    for _ in 0..count {
        let id = fields.number(if version < 2 { 2 } else { 4 })?;
        // 0: an offset into the file. 1: an offset into the `idat` box. 2: an offset into another item.
        let method = if version == 0 { 0 } else { fields.number(2)? & 0xF };
        fields.number(2)?;
        let base = fields.number(base_bytes)?;
        let extents = fields.number(2)?;
        let item = items.get(&id);
        // Extents without numbers would cost time, but no bytes of the list.
        if extents > 1 && index_bytes + offset_bytes + length_bytes == 0 {
            return None;
        }
        for extent in 0..extents {
            fields.number(index_bytes)?;
            let offset = fields.number(offset_bytes)?.checked_add(base)?;
            let length = fields.number(length_bytes)?;
            let whole = match method {
                0 => 0..file_bytes,
                1 => inner_data.clone(),
                _ => continue,
            };
            if let Some(item) = item {
                let start = whole.start.checked_add(offset)?;
                // A length of zero means the rest.
                let end = if length == 0 { whole.end } else { start.checked_add(length)?.min(whole.end) };
                let replacement = if *item == Metadata::Exif && extent == 0 { EMPTY_EXIF } else { &[] };
                erasures.replace(start..end, replacement);
            }
        }
    }
    Some(())
}
