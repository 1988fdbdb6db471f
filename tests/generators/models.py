"""Reads answers with the types that datamodel-code-generator makes. Usage: models.py URL. PYTHONPATH names the folder of posthaste_models."""

import json
import re
import sys
import urllib.request

import posthaste_models as models

# A name that ends with a number is one that the generator had to invent.
invented = [name for name in vars(models) if re.search(r"[a-z]\d+$", name)]
assert not invented, invented

url = sys.argv[1]
token = None


def call(method, path, body=None):
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def dumped(model):
    return model.model_dump(mode="json", exclude_none=True)


for user_name in ["models-a", "models-b"]:
    new = models.NewUser(user_name=user_name, password="three blue kites")
    assert models.User.model_validate(call("POST", "/api/users", dumped(new))).user_name == user_name
made = models.MadeSession.model_validate(
    call("POST", "/api/sessions", dumped(models.NewSession(user_name="models-a", password="three blue kites")))
)
token = made.token
cursor = models.Events.model_validate(call("GET", "/api/events")).cursor
new = models.NewConversation(kind="group", title="Kites", member_user_names=["models-b"])
group = models.Conversation.model_validate(call("POST", "/api/conversations", dumped(new)))
sent = models.SendMessage(conversation_id=group.id, body="hey")
assert models.Message.model_validate(call("POST", "/api/messages", dumped(sent))).body == "hey"
members = [models.Member.model_validate(member) for member in call("GET", f"/api/conversations/{group.id}/members")]
assert [member.user.user_name for member in members] == ["models-a", "models-b"], members
events = models.Events.model_validate(call("GET", f"/api/events?after={cursor}&wait=5")).events
found = [getattr(event, "root", event) for event in events]
assert any(event.type == "message.created" and event.data.body == "hey" for event in found), found
