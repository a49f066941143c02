//! How a password is proved to PostgreSQL without being sent: SCRAM-SHA-256 (RFC 5802, RFC 7677), and the older MD5 hash.
//!
//! No channel binding. No sockets: texts in, texts out.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use md5::{Digest, Md5};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;

/// No channel binding.
const HEADER: &str = "n,,";
/// `HEADER` in base64.
const HEADER_BASE64: &str = "biws";
/// More rounds than any server asks for; a hostile one could keep us busy with them.
const ROUNDS_MAX: u32 = 1 << 22;
/// Bytes of our nonce.
const NONCE_BYTES: usize = 18;

/// The proof under way.
pub(super) struct Scram {
    password: String,
    nonce: String,
}

/// What is expected of a server that knows the password too.
pub(super) struct Expected {
    key: hmac::Key,
    text: String,
}

impl Scram {
    /// With a random nonce.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn new(password: &str) -> Result<Self, String> {
        Ok(Self::with_nonce(password, BASE64_STANDARD.encode(random::<NONCE_BYTES>()?)))
    }

    fn with_nonce(password: &str, nonce: String) -> Self {
        // What cannot be normalised counts as it is, as in PostgreSQL.
        let password = stringprep::saslprep(password).map_or_else(|_| password.to_owned(), |text| text.into_owned());
        Self { password, nonce }
    }

    /// The user stands in the startup message; PostgreSQL ignores the one here.
    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    pub(super) fn first(&self) -> String {
        format!("{HEADER}{}", self.bare())
    }

    /// The answer to the server's challenge.
    ///
    /// # Errors
    /// The challenge is none.
    pub(super) fn last(&self, challenge: &str) -> Result<(String, Expected), String> {
        self.answer(challenge, &self.bare())
    }

    fn answer(&self, challenge: &str, bare: &str) -> Result<(String, Expected), String> {
        let wrong = || "the server's challenge is no SCRAM-SHA-256".to_owned();
        let mut parts = challenge.split(',');
        let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name)).ok_or_else(wrong);
        let (nonce, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| wrong())?;
        let rounds: NonZeroU32 = rounds.parse().map_err(|_| wrong())?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || rounds.get() > ROUNDS_MAX {
            return Err(wrong());
        }
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, self.password.as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let client_key = sign(&salted, b"Client Key");
        let unproved = format!("c={HEADER_BASE64},r={nonce}");
        let text = format!("{bare},{challenge},{unproved}");
        let signature = sign(digest::digest(&digest::SHA256, client_key.as_ref()).as_ref(), text.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, sign(&salted, b"Server Key").as_ref());
        Ok((format!("{unproved},p={}", BASE64_STANDARD.encode(proof)), Expected { key, text }))
    }
}

/// Random bytes.
///
/// # Errors
/// The system has none.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bytes)
}

impl Expected {
    /// Whether the server's last word proves that it knows the password.
    pub(super) fn is(&self, last: &str) -> bool {
        let signature = last.strip_prefix("v=").and_then(|text| BASE64_STANDARD.decode(text).ok());
        signature.is_some_and(|signature| hmac::verify(&self.key, self.text.as_bytes(), &signature).is_ok())
    }
}

/// The answer where the server stores MD5 hashes.
pub(super) fn md5_answer(user: &str, password: &str, salt: &[u8]) -> String {
    let hex = |parts: &[&[u8]]| -> String {
        let mut hash = Md5::new();
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let stored = hex(&[password.as_bytes(), user.as_bytes()]);
    format!("md5{}", hex(&[stored.as_bytes(), salt]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let scram = Scram::with_nonce("pencil", "rOprNGfwEbeRWgbNEkqO".into());
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, expected) = scram.answer(challenge, "n=user,r=rOprNGfwEbeRWgbNEkqO").expect("a challenge");
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(expected.is("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!expected.is("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=") && !expected.is("e=other-error"));
    }

    #[test]
    fn a_challenge_that_is_none_is_refused() {
        let scram = Scram::with_nonce("pencil", "abc".into());
        for challenge in [
            "",
            "r=abc,s=W22Z,i=1",
            "r=xyzabc,s=W22Z,i=1",
            "r=abcd,s=?,i=1",
            "r=abcd,s=W22Z,i=0",
            "r=abcd,s=W22Z,i=4294967295",
        ] {
            assert!(scram.last(challenge).is_err(), "{challenge}");
        }
        assert!(scram.last("r=abcd,s=W22Z,i=1").is_ok());
        assert!(scram.first().starts_with("n,,n=,r=abc"));
    }

    /// As `md5(md5(password || user) || salt)` of PostgreSQL says.
    #[test]
    fn the_md5_answer_is_the_hash_of_the_hash() {
        assert_eq!(
            md5_answer("ann", "secret", &[1, 2, 3, 4]),
            format!("md5{}", {
                let inner: String = Md5::digest(b"secretann").iter().map(|byte| format!("{byte:02x}")).collect();
                let outer = Md5::digest([inner.as_bytes(), &[1, 2, 3, 4]].concat());
                outer.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            })
        );
    }
}
