"""What a tracking server answers to those that it turns away, as one line."""

import os
import re
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import read_mlflow_creds

_SAID = re.compile(r"Response (?:body|text): '?([^\n']*)")  # what MLflow quotes of an answer


def refusal(error: BaseException) -> str:
    """One line if a tracking server has turned the user away, who is unknown there or may not do this; else nothing."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    else:  # of the way to artifacts, which MLflow does not make its own
        status = getattr(getattr(error, "response", None), "status_code", 0)
    server = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    # MLflow has errors with these numbers that no server has sent
    if status not in (401, 403) or server.scheme not in ("http", "https"):
        return ""
    address = f"{server.scheme}://{server.netloc.rpartition('@')[2]}"  # a password can stand in it
    user = read_mlflow_creds().username
    who = f"the user {user}" if user else "a user without a name"
    if status == 401:
        return (
            f"the tracking server {address} does not let {who} in; "
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    said = _SAID.search(str(error))
    reason = said[1].strip() if said else "no permission"
    if reason in ("no permission", "Permission denied"):
        reason = "no permission; ask who manages the experiment for it, or choose another with --experiment"
    return f"the tracking server {address} refuses this to {who}: {reason}"
