"""A client that openapi-python-client makes. Usage: python_client.py URL. PYTHONPATH names the folder of the generated package."""

import sys

from posthaste_client import AuthenticatedClient, Client
from posthaste_client.api.conversations import create_conversation
from posthaste_client.api.live import poll_events
from posthaste_client.api.members import list_members
from posthaste_client.api.messages import send_message
from posthaste_client.api.sessions import create_session
from posthaste_client.api.users import register_user
from posthaste_client.models import (
    ConversationKind,
    MemberAddedEvent,
    MessageCreatedEvent,
    NewConversation,
    NewSession,
    NewUser,
    SendMessage,
)

url = sys.argv[1]
password = "three blue kites"
anybody = Client(base_url=url, raise_on_unexpected_status=True)
for user_name in ["python-a", "python-b"]:
    user = register_user.sync(client=anybody, body=NewUser(user_name=user_name, password=password))
    assert user.user_name == user_name, user
session = create_session.sync(client=anybody, body=NewSession(user_name="python-a", password=password))
client = AuthenticatedClient(base_url=url, token=session.token, raise_on_unexpected_status=True)
start = poll_events.sync(client=client)
new = NewConversation(kind=ConversationKind.GROUP, title="Kites", member_user_names=["python-b"])
group = create_conversation.sync(client=client, body=new)
sent = send_message.sync(client=client, body=SendMessage(conversation_id=group.id, body="hey"))
assert sent.body == "hey", sent
members = list_members.sync(group.id, client=client)
roles = [(member.user.user_name, str(member.role)) for member in members]
assert roles == [("python-a", "owner"), ("python-b", "member")], roles
read = poll_events.sync(client=client, after=start.cursor, wait=5)
kinds = [type(event) for event in read.events]
assert MessageCreatedEvent in kinds and MemberAddedEvent in kinds, kinds
assert any(event.data.body == "hey" for event in read.events if isinstance(event, MessageCreatedEvent))
