//! Zenoh, peer to peer without a router: the publisher listens, the subscribers connect.

use std::net::TcpListener;

use ::zenoh::bytes::ZBytes;
use ::zenoh::qos::CongestionControl;
use ::zenoh::{Config, Session, pubsub};
use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::drivers::{Driver, Guard, Publish};
use crate::load::Tally;
use crate::role::{Context, Job, Spec};

const KEY: &str = "bench/events";

fn config(spec: &Spec, settings: &[(&str, Value)]) -> Result<Config> {
    let mut config = Config::default();
    let mut set = |name: &str, value: &Value| {
        config.insert_json5(name, &value.to_string()).map_err(|error| anyhow!("zenoh's setting {name}: {error}"))
    };
    set("mode", &json!("peer"))?;
    // Nobody else is to be found: what is measured are these processes.
    set("scouting/multicast/enabled", &json!(false))?;
    set("scouting/gossip/enabled", &json!(false))?;
    if matches!(spec.driver, Driver::ZenohTls | Driver::ZenohTlsDeep | Driver::ZenohQuic) {
        set("transport/link/tls/root_ca_certificate", &json!(spec.tls.ca))?;
        set("transport/link/tls/listen_certificate", &json!(spec.tls.cert))?;
        set("transport/link/tls/listen_private_key", &json!(spec.tls.key))?;
    }
    if spec.driver == Driver::ZenohTlsDeep {
        set("transport/link/tx/queue/size/data", &json!(16))?;
        set("transport/link/rx/buffer_size", &json!(1 << 20))?;
    }
    for (name, value) in settings {
        set(name, value)?;
    }
    // For trying settings: a JSON object of names and values.
    if let Ok(tuning) = std::env::var("PEERS_ZENOH") {
        let tuning: serde_json::Map<String, Value> = serde_json::from_str(&tuning)?;
        for (name, value) in &tuning {
            set(name, value)?;
        }
    }
    Ok(config)
}

async fn open(config: Config) -> Result<Session> {
    ::zenoh::open(config).await.map_err(|error| anyhow!("zenoh: {error}"))
}

#[derive(Debug)]
pub(crate) struct Publisher {
    publisher: pubsub::Publisher<'static>,
    /// Closed when it is dropped.
    _session: Session,
}

impl Publisher {
    pub(crate) async fn connect(context: &mut Context) -> Result<Self> {
        let scheme = match context.spec.driver {
            Driver::ZenohTls | Driver::ZenohTlsDeep => "tls",
            Driver::ZenohQuic => "quic",
            _ => "tcp",
        };
        // A free port: bound for a moment to learn its number.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let endpoint = format!("{scheme}/127.0.0.1:{port}");
        let session = open(config(&context.spec, &[("listen/endpoints", json!([endpoint]))])?).await?;
        let express = matches!(context.spec.job, Job::Latency { .. });
        let publisher = session
            .declare_publisher(KEY)
            .congestion_control(CongestionControl::Block)
            .express(express)
            .await
            .map_err(|error| anyhow!("zenoh: {error}"))?;
        context.exchange(json!(endpoint)).await?;
        Ok(Self { publisher, _session: session })
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        self.publisher.put(ZBytes::from(payload)).await.map_err(|error| anyhow!("zenoh: {error}"))
    }

    async fn settle(&mut self) -> Result<()> {
        // It has no flush: what was put is on its way.
        Ok(())
    }
}

pub(crate) async fn subscribe(context: &mut Context, mut tally: Tally) -> Result<Guard> {
    let table = context.exchange(Value::Null).await?;
    let none: [&str; 0] = [];
    let settings = [("connect/endpoints", json!([table.publisher])), ("listen/endpoints", json!(none))];
    let session = open(config(&context.spec, &settings)?).await?;
    let tally = std::sync::Mutex::new(move |payload: &[u8]| tally.take(payload));
    let subscriber = session
        .declare_subscriber(KEY)
        .callback(move |sample| {
            let mut take = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            take(&sample.payload().to_bytes());
        })
        .await
        .map_err(|error| anyhow!("zenoh: {error}"))?;
    Ok(Box::new((session, subscriber)))
}
