//! Stores of providers: from the environment and options by hand to a client of one bucket.
//!
//! Later ones win: the defaults here, variables of the environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`), options by hand,
//! the URL. Names are those of `object_store`'s configuration keys, with or without the provider's prefix.
//!
//! Every request is one attempt (`object_store` retries none): the caller's loop has to see each failure, because a
//! put that failed may have happened, and because it is the one that tells the user what is being waited for. An
//! attempt ends after [`REQUEST_TIMEOUT`] at the latest.
//!
//! Invariant *no secret leaves*: no value of a setting that may be one is in a message. URLs with credentials are
//! refused before they come here, and so are endpoints with them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use object_store::{ObjectStore, RetryConfig};
use url::Url;

use super::bucket::{Bucket, Provider};

/// One request, its body and the answer's included; the option `timeout` has another.
const REQUEST_TIMEOUT: &str = "60s";

/// Variables with other names than the provider's options.
const ALIASES: [(&str, Provider, &str); 4] = [
    ("SERVICE_ACCOUNT", Provider::Gcs, "service_account"),
    ("IDENTITY_ENDPOINT", Provider::Azure, "identity_endpoint"),
    ("AZURE_STORAGE_ACCOUNT", Provider::Azure, "account_name"),
    ("AZURE_STORAGE_KEY", Provider::Azure, "account_key"),
];

const PREFIXES: [(Provider, &str); 3] = [
    (Provider::S3, "aws_"),
    (Provider::Gcs, "google_"),
    (Provider::Azure, "azure_"),
];

fn prefix(provider: Provider) -> &'static str {
    let prefix = PREFIXES.iter().find(|(of, _)| *of == provider);
    prefix.map_or("", |(_, prefix)| prefix)
}

/// The shorter of a setting's names.
fn short(provider: Provider, key: &str) -> &str {
    let key = key.strip_prefix(prefix(provider)).unwrap_or(key);
    key.strip_prefix("storage_").unwrap_or(key)
}

/// A store, and the account that it uses if it has one.
type Built = (Arc<dyn ObjectStore>, Option<String>);

/// A client of the bucket.
///
/// `environment` are the variables of the process.
pub(super) fn build(
    bucket: &Bucket,
    options: &BTreeMap<String, String>,
    environment: &[(String, String)],
) -> Result<Built, String> {
    let settings = Settings::collect(bucket.provider, options, environment)?;
    settings.check()?;
    settings
        .build(bucket)
        .map_err(|message| settings.without_secrets(message))
}

struct Setting {
    /// As given, in lower case.
    key: String,
    value: String,
    /// A name that is not known is an error: only the environment is shared with other programs.
    by_hand: bool,
}

struct Settings {
    provider: Provider,
    /// Later ones win.
    all: Vec<Setting>,
}

impl Settings {
    fn collect(
        provider: Provider,
        options: &BTreeMap<String, String>,
        environment: &[(String, String)],
    ) -> Result<Self, String> {
        let prefix = prefix(provider);
        let mut all = Vec::new();
        let mut set = |key: &str, value: &str, by_hand| {
            all.push(Setting {
                key: key.to_ascii_lowercase(),
                value: value.to_owned(),
                by_hand,
            });
        };
        set("timeout", REQUEST_TIMEOUT, true);
        set("allow_http", "false", true);
        for (name, value) in environment {
            let alias = ALIASES
                .iter()
                .find(|(alias, of, _)| alias == name && *of == provider);
            let key = match alias {
                Some((_, _, key)) => *key,
                None if name.starts_with(&prefix.to_ascii_uppercase()) => name,
                None => continue,
            };
            // Set to nothing is how shells unset.
            if !value.is_empty() {
                set(key, value, false);
            }
        }
        for (key, value) in options {
            let lower = key.to_ascii_lowercase();
            let others = PREFIXES.iter().filter(|(of, _)| *of != provider);
            if others.clone().any(|(_, other)| lower.starts_with(other)) {
                // One client may use several providers.
                continue;
            }
            if matches!(
                short(provider, &lower),
                "bucket" | "bucket_name" | "container_name"
            ) {
                return Err(format!("the URL names the bucket, not the option {key}"));
            }
            set(key, value, true);
        }
        Ok(Settings { provider, all })
    }

    /// The value in force of the setting with these names.
    fn last(&self, keys: &[&str]) -> Option<&str> {
        let mut backwards = self.all.iter().rev();
        let found = backwards.find(|setting| keys.contains(&short(self.provider, &setting.key)))?;
        Some(&found.value)
    }

    fn is_on(&self, key: &str) -> bool {
        let value = self.last(&[key]).unwrap_or_default().to_ascii_lowercase();
        matches!(value.as_str(), "1" | "true" | "on" | "yes" | "y")
    }

    /// What a builder would accept, but this crate does not.
    fn check(&self) -> Result<(), String> {
        const ENDPOINTS: [&str; 5] = [
            "endpoint",
            "endpoint_url",
            "endpoint_url_s3",
            "endpoint_url_sts",
            "base_url",
        ];
        for setting in &self.all {
            if !ENDPOINTS.contains(&short(self.provider, &setting.key)) {
                continue;
            }
            let key = &setting.key;
            let url = Url::parse(&setting.value)
                .map_err(|error| format!("the option {key} is no URL: {error}"))?;
            if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
                return Err(format!(
                    "the option {key} is a URL with credentials or a query"
                ));
            }
            if url.scheme() != "https" && !self.is_on("allow_http") {
                return Err(format!(
                    "the option {key} is not an https:// URL, and plain HTTP must be asked for by the option allow_http"
                ));
            }
        }
        if self
            .last(&["conditional_put"])
            .is_some_and(|mode| mode.trim() == "disabled")
        {
            return Err(
                "the option conditional_put is disabled, and commits are conditional puts".into(),
            );
        }
        // The parser's message would quote what it does not understand.
        let keys = ["service_account_key"];
        if self.provider == Provider::Gcs
            && self.last(&keys).is_some_and(|key| {
                serde_json::from_str::<BTreeMap<String, serde_json::Value>>(key).is_err()
            })
        {
            return Err(
                "the option service_account_key is not the JSON of a service account".into(),
            );
        }
        Ok(())
    }

    fn build(&self, bucket: &Bucket) -> Result<Built, String> {
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        match self.provider {
            #[cfg(feature = "aws")]
            Provider::S3 => {
                let builder = self.apply(object_store::aws::AmazonS3Builder::new())?;
                let builder = builder.with_retry(retry).with_url(&bucket.root);
                let store = builder.build().map_err(|error| error.to_string())?;
                Ok((Arc::new(store), None))
            }
            #[cfg(feature = "gcp")]
            Provider::Gcs => {
                let builder = self.apply(object_store::gcp::GoogleCloudStorageBuilder::new())?;
                let builder = builder.with_retry(retry).with_url(&bucket.root);
                let store = builder.build().map_err(|error| error.to_string())?;
                Ok((Arc::new(store), None))
            }
            #[cfg(feature = "azure")]
            Provider::Azure => {
                let builder = self.apply(object_store::azure::MicrosoftAzureBuilder::new())?;
                let builder = builder.with_retry(retry).with_url(&bucket.root);
                let account = match self.last(&["account_name"]) {
                    None if self.is_on("use_emulator") => Some("devstoreaccount1"),
                    account => account,
                };
                let store = builder.build().map_err(|error| error.to_string())?;
                Ok((Arc::new(store), account.map(str::to_owned)))
            }
            #[allow(unreachable_patterns, reason = "not with all features")]
            provider => Err(provider.unsupported()),
        }
    }

    fn apply<B: Builder>(&self, mut builder: B) -> Result<B, String> {
        for setting in &self.all {
            match setting.key.parse() {
                Ok(key) => builder = builder.set(key, &setting.value),
                Err(_) if setting.by_hand => {
                    return Err(format!(
                        "{} is not an option of {} stores",
                        setting.key, self.provider
                    ));
                }
                Err(_) => {}
            }
        }
        Ok(builder)
    }

    fn without_secrets(&self, mut message: String) -> String {
        const SECRET: [&str; 6] = ["key", "secret", "token", "sas", "proxy", "credential"];
        for setting in &self.all {
            let secret = SECRET.iter().any(|word| setting.key.contains(word));
            if secret && !setting.value.is_empty() {
                message = message.replace(&setting.value, "(hidden)");
            }
        }
        message
    }
}

/// What the builders of `object_store` have in common.
trait Builder {
    type Key: FromStr;
    fn set(self, key: Self::Key, value: &str) -> Self;
}

#[cfg(feature = "aws")]
impl Builder for object_store::aws::AmazonS3Builder {
    type Key = object_store::aws::AmazonS3ConfigKey;
    fn set(self, key: Self::Key, value: &str) -> Self {
        self.with_config(key, value)
    }
}

#[cfg(feature = "gcp")]
impl Builder for object_store::gcp::GoogleCloudStorageBuilder {
    type Key = object_store::gcp::GoogleConfigKey;
    fn set(self, key: Self::Key, value: &str) -> Self {
        self.with_config(key, value)
    }
}

#[cfg(feature = "azure")]
impl Builder for object_store::azure::MicrosoftAzureBuilder {
    type Key = object_store::azure::AzureConfigKey;
    fn set(self, key: Self::Key, value: &str) -> Self {
        self.with_config(key, value)
    }
}
