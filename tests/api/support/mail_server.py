"""An SMTP server for the tests: stores nothing and writes each mail to standard output as a line of JSON.

    scripts/mail-server PORT [USER:PASSWORD]

Port 0 is any free port. The first line is {"port": …}. With a user, only this user may send. A recipient whose address
begins with "never" is refused permanently. One whose address begins with "later" is refused temporarily the first time.
It ends when its standard input ends, so that it never outlives the test.
"""

import asyncio
import email
import email.policy
import json
import logging
import sys
import warnings

from aiosmtpd.smtp import SMTP, AuthResult

# The warning is about unencrypted passwords, which are intended here on loopback.
warnings.simplefilter("ignore")
logging.getLogger("mail.log").setLevel(logging.ERROR)


def print_line(line):
    print(json.dumps(line), flush=True)


class Handler:
    def __init__(self):
        self.refused_once = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("never"):
            return f"550 5.1.1 <{address}> is not known here"
        if address.startswith("later") and address not in self.refused_once:
            self.refused_once.add(address)
            return f"450 4.2.1 <{address}> has no time now"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        text = mail.get_content().replace("\r\n", "\n")
        print_line(
            {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "subject": mail["subject"],
                # Every mail ends with a line end that is not part of the text.
                "text": text.removesuffix("\n"),
                "headers": [[name, str(value)] for name, value in mail.items()],
                "longest_line": max(len(line) for line in envelope.content.split(b"\r\n")),
            }
        )
        return "250 OK"


def authenticator(login):
    def check(server, session, envelope, mechanism, data):
        given = data.login + b":" + data.password
        return AuthResult(success=given == login.encode(), handled=False)

    return check


async def main(port, login=None):
    handler = Handler()
    rules = {"authenticator": authenticator(login), "auth_required": True, "auth_require_tls": False} if login else {}

    def connection():
        return SMTP(handler, hostname="mail.test", **rules)

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", int(port))
    print_line({"port": server.sockets[0].getsockname()[1]})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(*sys.argv[1:]))
