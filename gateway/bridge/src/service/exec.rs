//! ExecProcess: one stream for all processes of a client, told apart by the ids that it chose.
//!
//! For each process: `Started`, its output, `Exit`, the end of each output, `Done`. `Done` waits
//! for the end of the input too, which the client says. An error of a message ends the stream at
//! once and the processes with it: nobody could hear of them any more.

use std::collections::HashMap;
use std::sync::Arc;

use gateway_api::{Code, Error, Process, ProcessEvent};
use gateway_proto::convert::container::process_from_wire;
use gateway_proto::error::{to_rpc, to_status};
use gateway_proto::frontend::exec_message::Input;
use gateway_proto::frontend::{
    DoneMessage, ExecMessage, ExitMessage, FdMessage, InitMessage, StartedMessage,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::containers::ContainerTable;
use crate::host::conduct::Conduct;
use crate::transport::Activity;

/// Messages that wait for the client to read; with more the processes wait.
const PENDING_MESSAGES: usize = 16;

/// The code of a process whose end could not be told.
const UNKNOWN_EXIT: u32 = 255;

pub type Answers = ReceiverStream<Result<ExecMessage, Status>>;

/// Serves one stream until the client is gone, or has said all and its processes have ended.
pub fn serve(
    table: ContainerTable,
    activity: Arc<Activity>,
    conduct: Option<Arc<Conduct>>,
    incoming: Streaming<ExecMessage>,
) -> Answers {
    let (answers, stream) = mpsc::channel(PENDING_MESSAGES);
    tokio::spawn(async move {
        let mut processes = Processes {
            table,
            activity,
            conduct,
            answers: answers.clone(),
            known: HashMap::new(),
            forwarding: JoinSet::new(),
        };
        tokio::select! {
            ended = super::guarded("ExecProcess", processes.run(incoming)) => {
                if let Err(error) = ended {
                    let _ = answers.send(Err(to_status(&error))).await;
                }
            }
            () = answers.closed() => {}
        }
    });
    ReceiverStream::new(stream)
}

struct Processes {
    table: ContainerTable,
    activity: Arc<Activity>,
    /// Hears of inputs that stayed open.
    conduct: Option<Arc<Conduct>>,
    answers: mpsc::Sender<Result<ExecMessage, Status>>,
    /// Also those that have ended: an id is used once.
    known: HashMap<String, Known>,
    /// Ends with this.
    forwarding: JoinSet<()>,
}

struct Known {
    process: Arc<dyn Process>,
    has_input: bool,
    /// Cancelled by the end of its input.
    input_ended: CancellationToken,
}

impl Processes {
    async fn run(&mut self, mut incoming: Streaming<ExecMessage>) -> Result<(), Error> {
        loop {
            let message = incoming
                .message()
                .await
                .map_err(|status| Error::unknown(status.message()))?;
            let Some(message) = message else { break };
            self.take(message).await?;
        }
        for known in self.known.values() {
            if !known.input_ended.is_cancelled() {
                if let Some(conduct) = &self.conduct {
                    conduct.note(|seen| seen.open_inputs += 1);
                }
                known.end_input().await?;
            }
        }
        while self.forwarding.join_next().await.is_some() {}
        Ok(())
    }

    async fn take(&mut self, message: ExecMessage) -> Result<(), Error> {
        let id = message.process_id;
        if id.is_empty() {
            return Err(Error::invalid("ProcessID required"));
        }
        let known = self.known.get(&id);
        let Some(input) = message.input else {
            // Something newer than us.
            return Ok(());
        };
        if let Input::Init(init) = input {
            return match known {
                Some(_) => Err(Error::new(
                    Code::AlreadyExists,
                    format!("Process {id} already exists"),
                )),
                None => self.start(id, init).await,
            };
        }
        let missing = || Error::new(Code::NotFound, format!("IO for process {id:?} not found"));
        match input {
            Input::File(file) => known.ok_or_else(missing)?.file(file).await,
            Input::Resize(size) => {
                let process = &known.ok_or_else(missing)?.process;
                process.resize(size.rows, size.cols).await
            }
            Input::Signal(signal) => {
                known
                    .ok_or_else(missing)?
                    .process
                    .signal(&signal.name)
                    .await
            }
            // Only we send these.
            Input::Init(_) | Input::Started(_) | Input::Exit(_) | Input::Done(_) => Ok(()),
        }
    }

    async fn start(&mut self, id: String, init: InitMessage) -> Result<(), Error> {
        let container = self.table.get(&init.container_id).ok_or_else(|| {
            Error::new(
                Code::NotFound,
                format!(
                    "container {:?} previously released or not created",
                    init.container_id
                ),
            )
        })?;
        let input_ended = CancellationToken::new();
        let has_input = init.fds.contains(&0);
        if !has_input {
            input_ended.cancel();
        }
        let process = container.start(process_from_wire(init)).await?;
        let process: Arc<dyn Process> = Arc::from(process);
        let known = Known {
            process: process.clone(),
            has_input,
            input_ended: input_ended.clone(),
        };
        self.known.insert(id.clone(), known);
        let (answers, activity) = (self.answers.clone(), self.activity.clone());
        self.forwarding
            .spawn(forward(id, process, input_ended, answers, activity));
        Ok(())
    }
}

impl Known {
    async fn file(&self, file: FdMessage) -> Result<(), Error> {
        if file.fd != 0 || !self.has_input {
            let text = format!("fd {} unavailable to write", file.fd);
            return Err(Error::new(Code::OutOfRange, text));
        }
        if self.input_ended.is_cancelled() {
            // On its way while the process ended.
            return Ok(());
        }
        if !file.data.is_empty() {
            self.process.write(&file.data).await?;
        }
        match file.eof {
            true => self.end_input().await,
            false => Ok(()),
        }
    }

    async fn end_input(&self) -> Result<(), Error> {
        self.process.close_input().await?;
        self.input_ended.cancel();
        Ok(())
    }
}

/// Tells the client all that happens to a process.
async fn forward(
    id: String,
    process: Arc<dyn Process>,
    input_ended: CancellationToken,
    answers: mpsc::Sender<Result<ExecMessage, Status>>,
    activity: Arc<Activity>,
) {
    let message = |input| ExecMessage {
        process_id: id.clone(),
        input: Some(input),
    };
    // A process may say nothing for hours.
    let next = || async {
        let _working = activity.work();
        process.next_event().await
    };
    while let Some(event) = next().await {
        let answer = match event {
            Ok(event) => Ok(message(to_wire(event))),
            Err(error) => Err(to_status(&error)),
        };
        let last = answer.is_err();
        if answers.send(answer).await.is_err() || last {
            return;
        }
    }
    input_ended.cancelled().await;
    // The client may be gone.
    let _ = answers.send(Ok(message(Input::Done(DoneMessage {})))).await;
}

fn to_wire(event: ProcessEvent) -> Input {
    match event {
        ProcessEvent::Started => Input::Started(StartedMessage {}),
        ProcessEvent::Output { fd, data } => Input::File(FdMessage {
            fd,
            eof: false,
            data,
        }),
        ProcessEvent::OutputEnd { fd } => Input::File(FdMessage {
            fd,
            eof: true,
            data: Vec::new(),
        }),
        ProcessEvent::Exit(None) => Input::Exit(ExitMessage::default()),
        ProcessEvent::Exit(Some(error)) => Input::Exit(ExitMessage {
            code: error.exit_code().unwrap_or(UNKNOWN_EXIT),
            error: Some(to_rpc(&error)),
        }),
    }
}
