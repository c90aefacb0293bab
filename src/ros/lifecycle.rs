//! The managed node of ROS 2: its states, and the services that move it from one to the next.
//!
//! The thread of the services asks, the main thread, which owns the model, does and answers. Messages
//! and numbers are those of `lifecycle_msgs`, the transitions those of rcl's state machine that can
//! happen here: only configuring, which loads the model, can fail.

use std::time::{SystemTime, UNIX_EPOCH};

use ros2_client::Publisher;
use serde::{Deserialize, Serialize};

/// What the node is or does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No model.
    Unconfigured,
    /// A warm model; frames are read and not segmented.
    Inactive,
    Active,
    /// The process ends.
    Finalized,
    Configuring,
    CleaningUp,
    ShuttingDown,
    Activating,
    Deactivating,
}

use State::{
    Activating, Active, CleaningUp, Configuring, Deactivating, Finalized, Inactive, ShuttingDown,
    Unconfigured,
};

/// A step from one state to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    id: u8,
    label: &'static str,
    start: State,
    goal: State,
}

const STATES: [State; 9] = [
    Unconfigured,
    Inactive,
    Active,
    Finalized,
    Configuring,
    CleaningUp,
    ShuttingDown,
    Activating,
    Deactivating,
];

const STEPS: [Step; 13] = [
    step(1, "configure", Unconfigured, Configuring),
    step(10, SUCCESS, Configuring, Inactive),
    step(11, FAILURE, Configuring, Unconfigured),
    step(2, "cleanup", Inactive, CleaningUp),
    step(20, SUCCESS, CleaningUp, Unconfigured),
    step(3, "activate", Inactive, Activating),
    step(30, SUCCESS, Activating, Active),
    step(4, "deactivate", Active, Deactivating),
    step(40, SUCCESS, Deactivating, Inactive),
    step(5, "shutdown", Unconfigured, ShuttingDown),
    step(6, "shutdown", Inactive, ShuttingDown),
    step(7, "shutdown", Active, ShuttingDown),
    step(50, SUCCESS, ShuttingDown, Finalized),
];
const SUCCESS: &str = "transition_success";
const FAILURE: &str = "transition_failure";

const fn step(id: u8, label: &'static str, start: State, goal: State) -> Step {
    Step { id, label, start, goal }
}

impl State {
    fn message(self) -> StateMessage {
        let (id, label) = match self {
            Unconfigured => (1, "unconfigured"),
            Inactive => (2, "inactive"),
            Active => (3, "active"),
            Finalized => (4, "finalized"),
            Configuring => (10, "configuring"),
            CleaningUp => (11, "cleaningup"),
            ShuttingDown => (12, "shuttingdown"),
            Activating => (13, "activating"),
            Deactivating => (14, "deactivating"),
        };
        StateMessage { id, label }
    }

    /// Whether the node rests in it, so that a client may move it on.
    fn rests(self) -> bool {
        matches!(self, Unconfigured | Inactive | Active | Finalized)
    }

    /// The step that a client asks for by its label or, without one, by its number.
    fn asked(self, id: u8, label: &str) -> Option<Step> {
        let fits = |step: &Step| if label.is_empty() { step.id == id } else { step.label == label };
        self.steps().filter(|_| self.rests()).find(fits)
    }

    /// The step that ends what it does.
    fn ended(self, well: bool) -> Option<Step> {
        let label = if well { SUCCESS } else { FAILURE };
        self.steps().find(|step| step.label == label)
    }

    fn steps(self) -> impl Iterator<Item = Step> {
        STEPS.into_iter().filter(move |step| step.start == self)
    }
}

/// `lifecycle_msgs/State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct StateMessage {
    id: u8,
    label: &'static str,
}

/// `lifecycle_msgs/Transition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transition {
    id: u8,
    label: String,
}

/// `lifecycle_msgs/TransitionDescription`.
#[derive(Clone, Debug, Serialize)]
struct Description {
    transition: Transition,
    start_state: StateMessage,
    goal_state: StateMessage,
}

/// `lifecycle_msgs/TransitionEvent`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TransitionEvent {
    timestamp: u64,
    description: Description,
}

/// Type of [`TransitionEvent`].
pub(crate) const TRANSITION_EVENT: &str = "lifecycle_msgs/msg/TransitionEvent";

/// A request without fields; ROS 2 sends a byte in their place.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Empty;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct GetStateResponse {
    current_state: StateMessage,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct GetAvailableStatesResponse {
    available_states: Vec<StateMessage>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct GetAvailableTransitionsResponse {
    available_transitions: Vec<Description>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ChangeStateResponse {
    pub(crate) success: bool,
}

impl From<Step> for Description {
    fn from(Step { id, label, start, goal }: Step) -> Self {
        let transition = Transition { id, label: label.into() };
        Self { transition, start_state: start.message(), goal_state: goal.message() }
    }
}

/// The state, and who hears of it.
pub(crate) struct Lifecycle {
    pub(crate) state: State,
    events: Publisher<TransitionEvent>,
}

impl Lifecycle {
    pub(crate) fn new(state: State, events: Publisher<TransitionEvent>) -> Self {
        Self { state, events }
    }

    pub(crate) fn get_state(&self) -> GetStateResponse {
        GetStateResponse { current_state: self.state.message() }
    }

    pub(crate) fn states() -> GetAvailableStatesResponse {
        GetAvailableStatesResponse { available_states: STATES.map(State::message).to_vec() }
    }

    /// Those that a client may ask for now.
    pub(crate) fn available(&self) -> GetAvailableTransitionsResponse {
        let steps = self.state.steps().filter(|_| self.state.rests());
        GetAvailableTransitionsResponse { available_transitions: steps.map(Into::into).collect() }
    }

    pub(crate) fn graph() -> GetAvailableTransitionsResponse {
        GetAvailableTransitionsResponse { available_transitions: STEPS.map(Into::into).to_vec() }
    }

    /// Begins what a client asks for; returns what is to be done, if that is possible now.
    pub(crate) fn begin(&mut self, asked: &Transition) -> Option<State> {
        let step = self.state.asked(asked.id, &asked.label);
        if step.is_none() {
            let (Transition { id, label }, now) = (asked, self.state.message().label);
            log::warn!("no transition {id} `{label}` from the state {now}");
        }
        step.map(|step| self.take(step))
    }

    /// Ends what was begun.
    pub(crate) fn end(&mut self, well: bool) {
        if let Some(step) = self.state.ended(well) {
            self.take(step);
        }
    }

    fn take(&mut self, step: Step) -> State {
        self.state = step.goal;
        if step.goal.rests() {
            log::info!("{}", step.goal.message().label);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let event = TransitionEvent { timestamp, description: step.into() };
        if let Err(error) = self.events.publish(event) {
            log::warn!("transition_event: {error}");
        }
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where these labels lead, each well done.
    fn walk(from: State, labels: &[&str]) -> Option<State> {
        labels
            .iter()
            .try_fold(from, |state, label| Some(state.asked(0, label)?.goal.ended(true)?.goal))
    }

    #[test]
    fn the_states_are_walked_through_in_order_and_never_skipped() {
        assert_eq!(walk(Unconfigured, &["configure", "activate"]), Some(Active));
        let round = ["configure", "activate", "deactivate", "cleanup"];
        assert_eq!(walk(Unconfigured, &round), Some(Unconfigured));
        for from in [Unconfigured, Inactive, Active] {
            assert_eq!(walk(from, &["shutdown"]), Some(Finalized));
        }
        let refused = [(Unconfigured, "activate"), (Active, "cleanup"), (Finalized, "configure")];
        assert!(refused.iter().all(|&(from, label)| walk(from, &[label]).is_none()));
        assert_eq!(Configuring.asked(10, ""), None, "not a client's to end");
        assert_eq!(Unconfigured.asked(1, "").map(|step| step.goal), Some(Configuring));
        assert_eq!(Active.asked(3, "deactivate").map(|step| step.id), Some(4), "the label wins");
    }

    #[test]
    fn a_model_that_does_not_load_leaves_the_node_unconfigured() {
        assert_eq!(Configuring.ended(false).map(|step| step.goal), Some(Unconfigured));
        for state in STATES.into_iter().filter(|state| !state.rests()) {
            assert!(state.ended(true).is_some(), "{state:?}");
        }
    }
}
