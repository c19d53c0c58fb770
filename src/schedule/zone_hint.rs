//! What was probably meant by a name that is no time zone: an offset, a name of Windows, an abbreviation, a stray blank.
//!
//! Asked only for a name that was refused; the name itself is looked up by [`zone`](super::zone).

/// Names that people write, in lower case, and the IANA name of the same. Those of Windows are as Unicode's CLDR has them.
const MEANT: &[(&str, &str)] = &[
    ("asia/beijing", "Asia/Shanghai"),
    ("asia/shenzhen", "Asia/Shanghai"),
    ("asia/bangalore", "Asia/Kolkata"),
    ("asia/delhi", "Asia/Kolkata"),
    ("asia/mumbai", "Asia/Kolkata"),
    ("america/san_francisco", "America/Los_Angeles"),
    ("america/washington", "America/New_York"),
    ("europe/frankfurt", "Europe/Berlin"),
    ("europe/munich", "Europe/Berlin"),
    ("europe/milan", "Europe/Rome"),
    ("europe/barcelona", "Europe/Madrid"),
    ("pst", "America/Los_Angeles"),
    ("pdt", "America/Los_Angeles"),
    ("mdt", "America/Denver"),
    ("cdt", "America/Chicago"),
    ("edt", "America/New_York"),
    ("cest", "Europe/Berlin"),
    ("eest", "Europe/Helsinki"),
    ("msk", "Europe/Moscow"),
    ("jst", "Asia/Tokyo"),
    ("kst", "Asia/Seoul"),
    ("hkt", "Asia/Hong_Kong"),
    ("sgt", "Asia/Singapore"),
    ("aest", "Australia/Sydney"),
    ("aedt", "Australia/Sydney"),
    ("nzst", "Pacific/Auckland"),
    ("nzdt", "Pacific/Auckland"),
    ("z", "UTC"),
    ("utc standard time", "UTC"),
    ("coordinated universal time", "UTC"),
    ("greenwich mean time", "UTC"),
    ("afghanistan standard time", "Asia/Kabul"),
    ("alaskan standard time", "America/Anchorage"),
    ("arab standard time", "Asia/Riyadh"),
    ("arabian standard time", "Asia/Dubai"),
    ("argentina standard time", "America/Argentina/Buenos_Aires"),
    ("atlantic standard time", "America/Halifax"),
    ("aus central standard time", "Australia/Darwin"),
    ("aus eastern standard time", "Australia/Sydney"),
    ("bangladesh standard time", "Asia/Dhaka"),
    ("canada central standard time", "America/Regina"),
    ("cen. australia standard time", "Australia/Adelaide"),
    ("central america standard time", "America/Guatemala"),
    ("central asia standard time", "Asia/Bishkek"),
    ("central europe standard time", "Europe/Budapest"),
    ("central european standard time", "Europe/Warsaw"),
    ("central standard time", "America/Chicago"),
    ("central standard time (mexico)", "America/Mexico_City"),
    ("china standard time", "Asia/Shanghai"),
    ("e. africa standard time", "Africa/Nairobi"),
    ("e. australia standard time", "Australia/Brisbane"),
    ("e. south america standard time", "America/Sao_Paulo"),
    ("eastern standard time", "America/New_York"),
    ("egypt standard time", "Africa/Cairo"),
    ("fle standard time", "Europe/Kyiv"),
    ("gmt standard time", "Europe/London"),
    ("gtb standard time", "Europe/Bucharest"),
    ("hawaiian standard time", "Pacific/Honolulu"),
    ("india standard time", "Asia/Kolkata"),
    ("iran standard time", "Asia/Tehran"),
    ("israel standard time", "Asia/Jerusalem"),
    ("korea standard time", "Asia/Seoul"),
    ("morocco standard time", "Africa/Casablanca"),
    ("mountain standard time", "America/Denver"),
    ("myanmar standard time", "Asia/Yangon"),
    ("n. central asia standard time", "Asia/Novosibirsk"),
    ("nepal standard time", "Asia/Kathmandu"),
    ("new zealand standard time", "Pacific/Auckland"),
    ("newfoundland standard time", "America/St_Johns"),
    ("pacific sa standard time", "America/Santiago"),
    ("pacific standard time", "America/Los_Angeles"),
    ("pakistan standard time", "Asia/Karachi"),
    ("romance standard time", "Europe/Paris"),
    ("russian standard time", "Europe/Moscow"),
    ("sa pacific standard time", "America/Bogota"),
    ("se asia standard time", "Asia/Bangkok"),
    ("singapore standard time", "Asia/Singapore"),
    ("south africa standard time", "Africa/Johannesburg"),
    ("sri lanka standard time", "Asia/Colombo"),
    ("taipei standard time", "Asia/Taipei"),
    ("tasmania standard time", "Australia/Hobart"),
    ("tokyo standard time", "Asia/Tokyo"),
    ("turkey standard time", "Europe/Istanbul"),
    ("us eastern standard time", "America/Indiana/Indianapolis"),
    ("us mountain standard time", "America/Phoenix"),
    ("w. australia standard time", "Australia/Perth"),
    ("w. europe standard time", "Europe/Berlin"),
];

/// A sentence about a name that is unknown as a zone: why, and what to write instead. None: no idea.
pub fn zone_hint(name: &str) -> Option<String> {
    const NAME_BYTES_MAX: usize = 64;
    let known = name.trim();
    if known.len() > NAME_BYTES_MAX {
        return None;
    }
    let lower = known.to_ascii_lowercase();
    if let Some((_, meant)) = MEANT.iter().find(|(said, _)| *said == lower) {
        return Some(format!("write {meant}"));
    }
    if ["local", "localtime", "system"].contains(&lower.as_str()) {
        return Some("the nodes of a cluster have no local time in common; name the place".to_owned());
    }
    if let Some(offset) = lower.trim_start_matches(['u', 't', 'c', 'g', 'm']).strip_prefix(['+', '-']) {
        let is_east = lower.contains('+');
        return Some(of_offset(is_east, offset).unwrap_or_else(|| "an offset is no name; name a place".to_owned()));
    }
    if !known.is_empty() && known.len() < name.len() {
        return Some(format!("it has a blank at an end; write {known}"));
    }
    known.contains(' ').then(|| format!("names have no blanks; perhaps {}", known.replace(' ', "_")))
}

/// For `8`, `08`, `0800` or `08:00` hours east or west of Greenwich.
fn of_offset(is_east: bool, offset: &str) -> Option<String> {
    let (hours, minutes) = match offset.split_once(':') {
        Some(both) => both,
        None if offset.len() == 4 => offset.split_at_checked(2)?,
        None => (offset, "00"),
    };
    let hours: u32 = hours.parse().ok().filter(|_| hours.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (last, sign) = if is_east { (14, '-') } else { (12, '+') };
    match hours {
        _ if minutes != "00" || hours > last => None,
        0 => Some("write UTC".to_owned()),
        _ => Some(format!(
            "an offset is no name; name a place, or write Etc/GMT{sign}{hours} for it all year (the sign is turned round)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Zone;
    use super::*;

    #[test]
    fn each_name_that_is_proposed_is_a_zone_and_each_that_is_mended_is_none() {
        for &(said, meant) in MEANT {
            assert_eq!(Zone::get(meant).expect(meant).name(), meant);
            assert!(Zone::get(said).is_err(), "{said}");
        }
    }

    #[test]
    fn what_was_meant_is_told() {
        for (name, part) in [
            ("China Standard Time", "write Asia/Shanghai"),
            ("UTC+8", "write Etc/GMT-8 "),
            ("GMT-03:00", "write Etc/GMT+3 "),
            ("+0800", "write Etc/GMT-8 "),
            ("+05:30", "name a place"),
            ("UTC+0", "write UTC"),
            ("Asia/Tokyo ", "a blank at an end; write Asia/Tokyo"),
            ("America/New York", "perhaps America/New_York"),
            ("Local", "name the place"),
            ("JST", "write Asia/Tokyo"),
        ] {
            let hint = zone_hint(name).unwrap_or_default();
            assert!(hint.contains(part), "{name}: {hint}");
        }
        for name in ["", "Mars/Olympus", "CST"] {
            assert_eq!(zone_hint(name), None, "{name}");
        }
    }
}
