# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The life cycle of a managed node: which step each transition takes, and what becomes of faults.

States and transitions are those of ROS 2 (unconfigured, inactive, active, finalized). A step that
raises `UserError` has failed, and the node stays in the state that it had; any other exception is
an error, after which the node frees what it holds and is unconfigured. No request ends the process,
not even one for a transition that the state does not have.
"""

from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vggt_ros.errors import UserError

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"
CONFIGURING = "configuring"
SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)

Respond = Callable[[Any, Any], Any]  # rclpy types requests and responses of services as such


class ManagedNode(LifecycleNode):
    """Transitions as steps of a derived class, one at a time in the thread of the callbacks."""

    def __init__(self, name: str, **options: Any):
        super().__init__(name, **options)
        self.stage = UNCONFIGURED  # the state's label
        self._error: Exception | None = None  # of the last step
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._without_exceptions(service.callback)

    # What a transition does.

    def configure(self) -> None:
        """Make ready for `activate`.  Raises `UserError` where that is not possible."""

    def activate(self) -> None:
        """Begin to read and to publish."""

    def deactivate(self) -> None:
        """End that, and keep what `configure` and the time since have made."""

    def release(self) -> None:
        """Free that; called in any state, and more than once."""

    def entered(self, stage: str, problem: str) -> None:
        """Told of the state after each step, and why that is not the one that was asked for."""

    def refused(self, reason: str) -> None:
        """Told of a request for a transition that there is not."""

    def start_now(self) -> None:
        """Configure and activate without a manager.  Raises what a step raises."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != SUCCESS:
                raise self._error or UserError(f"the node stays {self.stage}")

    # Called by rclpy.

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        self.entered(CONFIGURING, "")
        return self._take(self.configure, INACTIVE, "configure")

    def on_activate(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._take(self.activate, ACTIVE, "activate")

    def on_deactivate(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._take(self.deactivate, INACTIVE, "deactivate")

    def on_cleanup(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._take(self.release, UNCONFIGURED, "cleanup")

    def on_shutdown(self, _: LifecycleState) -> TransitionCallbackReturn:
        return self._take(self._end, FINALIZED, "shutdown")

    def on_error(self, _: LifecycleState) -> TransitionCallbackReturn:
        cause, self._error = self._error, None
        try:
            self._end()
            self.stage = UNCONFIGURED
        except Exception as error:
            self.stage, self._error = FINALIZED, error
        self.entered(self.stage, f"{_text(cause)}; the node is {self.stage} now")
        return FAILURE if self.stage == FINALIZED else SUCCESS

    def destroy_node(self) -> None:
        """Leave the graph; rclpy forgets its state machine, which would keep the node there."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _end(self) -> None:
        if self.stage == ACTIVE:
            self.deactivate()
        self.release()

    def _take(self, step: Callable[[], None], goal: str, name: str) -> TransitionCallbackReturn:
        """Take a step towards a state; logged by `entered`, as rclpy keeps silent of exceptions."""
        self._error = None
        try:
            step()
        except Exception as error:
            self._error = error
            self.entered(self.stage, f"{name} has failed, the node is {self.stage}: {_text(error)}")
            return FAILURE if isinstance(error, UserError) else ERROR
        self.stage = goal
        self.entered(goal, "")
        return SUCCESS

    def _without_exceptions(self, respond: Respond) -> Respond:
        """The service's callback; rclpy's raises for a transition that the state does not have."""

        def answer(
            request: ChangeState.Request, response: ChangeState.Response
        ) -> ChangeState.Response:
            try:
                return respond(request, response)
            except Exception as error:
                asked = request.transition.label or request.transition.id
                self.refused(f"transition {asked} is refused in state {self.stage}: {error}")
                response.success = False
                return response

        return answer


def _text(error: Exception | None) -> str:
    return str(error) if isinstance(error, UserError) else repr(error)
