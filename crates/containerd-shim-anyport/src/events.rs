//! What containerd is told of its tasks, in order.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageDyn as _, MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc::{self, context};
use tokio::sync::{mpsc, oneshot};

/// How long containerd may take for one event.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often an event is sent again while containerd is not there, and how long the pause is: it
/// restarts within this time, and asks for the state of each task when it is back.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// A queue to containerd.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    namespace: String,
    queue: mpsc::UnboundedSender<Queued>,
}

#[derive(Debug)]
enum Queued {
    Event(Box<Envelope>),
    /// Told when all before it are sent.
    Flush(oneshot::Sender<()>),
}

impl Events {
    /// Begins to send to containerd's ttrpc `address`.
    pub(crate) fn start(address: String, namespace: String) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        tokio::spawn(send_all(format!("unix://{}", address.trim_start_matches("unix://")), queued));
        Self { namespace, queue }
    }

    /// Queues an event.
    pub(crate) fn tell(&self, topic: &str, event: &impl MessageFull) {
        let mut envelope = Envelope::new();
        envelope.namespace.clone_from(&self.namespace);
        topic.clone_into(&mut envelope.topic);
        envelope.timestamp = MessageField::some(timestamp(SystemTime::now()));
        envelope.event = MessageField::some(packed(event));
        // Nobody listens once the shim ends.
        let _ = self.queue.send(Queued::Event(Box::new(envelope)));
    }

    /// Waits until all that was queued is sent.
    pub(crate) async fn flush(&self) {
        let (sender, sent) = oneshot::channel();
        if self.queue.send(Queued::Flush(sender)).is_ok() {
            let _ = tokio::time::timeout(TIMEOUT, sent).await;
        }
    }
}

/// A message with its type, as containerd's `typeurl` names it: without a server in front.
pub(crate) fn packed(message: &impl MessageFull) -> Any {
    Any {
        type_url: message.descriptor_dyn().full_name().to_owned(),
        value: message.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

/// A time as containerd has it.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

async fn send_all(address: String, mut queued: mpsc::UnboundedReceiver<Queued>) {
    let mut client = None;
    while let Some(queued) = queued.recv().await {
        match queued {
            Queued::Event(envelope) => send(&mut client, &address, *envelope).await,
            Queued::Flush(sender) => {
                let _ = sender.send(());
            }
        }
    }
}

async fn send(client: &mut Option<EventsClient>, address: &str, envelope: Envelope) {
    let topic = envelope.topic.clone();
    let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
    for _ in 0..ATTEMPTS {
        match attempt(client, address, &request).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!("containerd cannot be told of {topic}: {error}");
                *client = None;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    tracing::warn!("containerd was not told of {topic}");
}

async fn attempt(
    client: &mut Option<EventsClient>, address: &str, request: &ForwardRequest,
) -> Result<(), ttrpc::Error> {
    let client = match client {
        Some(client) => client,
        None => client.insert(EventsClient::new(Client::connect(address).await?)),
    };
    client.forward(context::with_duration(TIMEOUT), request).await?;
    Ok(())
}
