//! The orientation in EXIF metadata, which is a TIFF file of its own.

/// Tag 0x0112: how the stored pixels have to be turned.
const ORIENTATION: u16 = 0x0112;

/// The orientation, from 1 to 8, as in the EXIF standard. Returns 1 (no change) if the metadata has none or cannot be read: a
/// photo with damaged metadata is still a photo.
pub(super) fn orientation(exif: &[u8]) -> u8 {
    // WebP files of some writers repeat the prefix that only JPEG needs.
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    find_orientation(tiff).filter(|value| (2..=8).contains(value)).map_or(1, |value| value as u8)
}

fn find_orientation(tiff: &[u8]) -> Option<u16> {
    let little = match tiff.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let short = |offset: usize| -> Option<u16> {
        let bytes = tiff.get(offset..offset.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let bytes: [u8; 4] = tiff.get(4..8)?.try_into().ok()?;
    let directory = if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize;
    let entries = usize::from(short(directory)?);
    // An entry is a tag, a type, a count of four bytes, and a value of four bytes. A short stands in the first two of them.
    (0..entries)
        .map_while(|index| directory.checked_add(2 + index * 12))
        .find(|entry| short(*entry) == Some(ORIENTATION))
        .and_then(|entry| short(entry.checked_add(8)?))
}
