//! Times as people read them.

use std::fmt;

use super::Timestamp;

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// `2026-11-23 16:15:36 UTC`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.seconds.div_euclid(DAY_SECONDS));
        let second = self.seconds.rem_euclid(DAY_SECONDS);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// The date of a day counted from 1970-01-01. (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms":
/// years that begin in March end with their leap day.)
fn date(days: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097;
    let since_0000_03_01 = days + 719_468;
    let era = since_0000_03_01.div_euclid(ERA_DAYS);
    let day_of_era = since_0000_03_01.rem_euclid(ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_date_prints_them() {
        let shown = |seconds| Timestamp { seconds, nanos: 0 }.to_string();
        assert_eq!(shown(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(shown(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(shown(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(shown(1_795_450_536), "2026-11-23 16:15:36 UTC");
        assert_eq!(shown(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(shown(-1), "1969-12-31 23:59:59 UTC");
    }
}
