mod encoders;

use encoders::{Encode, brotli, deflate, gzip, zlib, zstd};
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

fn text() -> Vec<u8> {
    let words = ["choices", "message", "content", "assistant", "\u{1f600}"];
    let mut random = 1_u32;
    let mut text = String::new();
    while text.len() < 100_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text += words[(random >> 16) as usize % words.len()];
        text += &format!("{},", random >> 8);
    }
    text.into_bytes()
}

const ENCODERS: [(&str, Encode); 5] = [
    ("gzip", gzip),
    ("deflate", zlib),
    ("deflate", deflate),
    ("br", brotli),
    ("zstd", zstd),
];

fn decoded(fields: &[&str], body: &[u8], limit: usize) -> Result<Option<Vec<u8>>, CodingError> {
    decode(fields.iter().map(|field| field.as_bytes()), body, limit)
}

#[test]
fn what_others_encode_is_decoded() {
    for body in [&b""[..], b"{}", b"[1,2,3]", &text()] {
        for (name, encode) in ENCODERS {
            assert_eq!(
                decoded(&[name], &encode(body), LIMIT),
                Ok(Some(body.to_vec())),
                "{name}"
            );
        }
    }
}

#[test]
fn names_and_lists_are_read_as_the_standard_has_it() {
    let body = text();
    let gzipped = gzip(&body);
    for fields in [
        &["x-gzip"][..],
        &["GZip"],
        &[" gzip "],
        &["identity, gzip"],
        &["gzip,"],
        &["", "gzip"],
        &["identity", "gzip"],
    ] {
        assert_eq!(
            decoded(fields, &gzipped, LIMIT),
            Ok(Some(body.clone())),
            "{fields:?}"
        );
    }
    // In the order in which they were applied.
    let twice = brotli(&gzipped);
    assert_eq!(
        decoded(&["gzip, br"], &twice, LIMIT),
        Ok(Some(body.clone()))
    );
    assert_eq!(
        decoded(&["gzip", "br"], &twice, LIMIT),
        Ok(Some(body.clone()))
    );
    assert_eq!(
        decoded(&["br, gzip"], &twice, LIMIT),
        Err(CodingError::Broken("gzip"))
    );
    for fields in [&["identity"][..], &[""], &[], &["identity, Identity"]] {
        assert_eq!(decoded(fields, b"{}", LIMIT), Ok(None), "{fields:?}");
    }
    let unknown = Err(CodingError::Unknown("utf-8".to_owned()));
    assert_eq!(
        decoded(&["gzip, UTF-8"], &gzipped, LIMIT),
        unknown
            .clone()
            .map_err(|_: CodingError| { CodingError::Unknown("UTF-8".to_owned()) })
    );
    assert_eq!(decoded(&["utf-8"], b"{}", LIMIT), unknown);
    assert_eq!(
        decoded(&["gzip,gzip,gzip,gzip,gzip"], b"", LIMIT),
        Err(CodingError::TooMany)
    );
}

#[test]
fn members_and_frames_follow_one_another() {
    let body = text();
    let (first, second) = body.split_at(body.len() / 3);
    for (name, encode) in [("gzip", gzip as Encode), ("zstd", zstd)] {
        let joined = [encode(first), encode(second), encode(b"")].concat();
        assert_eq!(
            decoded(&[name], &joined, LIMIT),
            Ok(Some(body.clone())),
            "{name}"
        );
    }
    let padded = [gzip(&body), vec![0; 512]].concat();
    assert_eq!(decoded(&["gzip"], &padded, LIMIT), Ok(Some(body.clone())));
    let skippable = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..], &zstd(&body)].concat();
    assert_eq!(decoded(&["zstd"], &skippable, LIMIT), Ok(Some(body)));
}

#[test]
fn a_bomb_goes_off_no_further_than_the_cap() {
    let body = vec![b' '; 8 << 20];
    for (name, encode) in ENCODERS {
        let bomb = encode(&body);
        assert!(bomb.len() < 64 << 10, "{name}: {}", bomb.len());
        let too_large = Err(CodingError::TooLarge { limit: LIMIT });
        assert_eq!(decoded(&[name], &bomb, LIMIT), too_large, "{name}");
        let exactly = decoded(&[name], &encode(&body[..LIMIT]), LIMIT);
        assert_eq!(exactly, Ok(Some(body[..LIMIT].to_vec())), "{name}");
        assert_eq!(
            decoded(&[name], &encode(&body[..=LIMIT]), LIMIT),
            too_large,
            "{name}"
        );
    }
    // The cap holds between two codings, too.
    let nested = gzip(&gzip(&body));
    let too_large = Err(CodingError::TooLarge { limit: LIMIT });
    assert_eq!(decoded(&["gzip, gzip"], &nested, LIMIT), too_large);
}

#[test]
fn what_is_cut_is_broken() {
    let body = text();
    for (name, encode) in ENCODERS {
        let whole = encode(&body);
        let ends = [
            0,
            1,
            2,
            5,
            whole.len() / 2,
            whole.len() - 5,
            whole.len() - 1,
        ];
        for end in ends {
            let cut = decoded(&[name], &whole[..end], LIMIT);
            assert!(
                matches!(cut, Err(CodingError::Broken(_))),
                "{name} cut at {end}: {cut:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_break_a_decoder(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
    ) {
        for (name, encode) in ENCODERS {
            let _ = decoded(&[name], &noise, 1 << 16);
            let mut damaged = encode(&noise);
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            if let Ok(Some(read)) = decoded(&[name], &damaged, 1 << 16) {
                prop_assert!(read.len() <= 1 << 16);
            }
        }
    }
}
