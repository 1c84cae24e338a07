//! Public keys of other token issuers, from PEM text (docs/protocol.md §7.7).
//!
//! The type of a key fixes the only algorithm it is used with: RSA → RS256, P-256 → ES256, Ed25519 → EdDSA. Other curves,
//! short RSA keys, certificates and private keys are refused at start.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey};

/// A key and the algorithm its type stands for.
#[derive(Clone, Debug)]
pub struct PublicKey {
    pub(super) key: DecodingKey,
    pub(super) algorithm: Algorithm,
}

/// Why the key file cannot be used. The operator's fault; the server does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// No `-----BEGIN …-----` block.
    #[error("the key file holds no PEM block. Remedy: export the public key with `openssl pkey -pubout`")]
    Empty,
    /// A block that is no public key.
    #[error(
        "block {block} of the key file is a {label:?}; only PUBLIC KEY and RSA PUBLIC KEY are read. Remedy: export the public key with `openssl pkey -pubout`"
    )]
    Label {
        /// Position in the file, from 1.
        block: usize,
        /// What its first line says.
        label: String,
    },
    /// A public key of a kind that is not supported.
    #[error(
        "block {block} of the key file is damaged or no RSA (2048 bits or more), P-256 or Ed25519 key. Remedy: use such a key"
    )]
    Unsupported {
        /// Position in the file, from 1.
        block: usize,
    },
}

const BEGIN: &str = "-----BEGIN ";
/// An RSA modulus of 2048 bits is 256 bytes of the key; the few around it do not matter.
const RSA_KEY_BYTES_MIN: usize = 256;
/// The object identifier of P-256 in DER. jsonwebtoken does not tell curves of the same size apart.
const P256_OID: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// All keys of a PEM file.
pub fn public_keys(text: &str) -> Result<Vec<PublicKey>, PublicKeyError> {
    let starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    if starts.is_empty() {
        return Err(PublicKeyError::Empty);
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(index, (&start, end))| one(&text[start..end], index + 1))
        .collect()
}

fn one(pem: &str, block: usize) -> Result<PublicKey, PublicKeyError> {
    let label = pem[BEGIN.len()..]
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end()
        .trim_end_matches('-');
    if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
        return Err(PublicKeyError::Label {
            block,
            label: label.chars().take(40).collect(),
        });
    }
    let found = if let Ok(key) = DecodingKey::from_rsa_pem(pem.as_bytes()) {
        let long_enough = key.try_get_as_bytes().is_ok_and(|der| der.len() >= RSA_KEY_BYTES_MIN);
        long_enough.then_some(PublicKey {
            key,
            algorithm: Algorithm::RS256,
        })
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem.as_bytes()) {
        is_p256(pem).then_some(PublicKey {
            key,
            algorithm: Algorithm::ES256,
        })
    } else if let Ok(key) = DecodingKey::from_ed_pem(pem.as_bytes()) {
        Some(PublicKey {
            key,
            algorithm: Algorithm::EdDSA,
        })
    } else {
        None
    };
    found.ok_or(PublicKeyError::Unsupported { block })
}

fn is_p256(pem: &str) -> bool {
    let body: String = pem
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    STANDARD
        .decode(body)
        .is_ok_and(|der| der.windows(P256_OID.len()).any(|window| window == P256_OID))
}
