"""Verifies deliveries as a receiver does, with the published library of Standard Webhooks.

    scripts/standardwebhooks verify

Standard input is a JSON array of {"secret": …, "headers": {…}, "body": …}. Standard output is a JSON array of the same
length: "verified", or the error of the library.
"""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def verify(delivery):
    try:
        Webhook(delivery["secret"]).verify(delivery["body"].encode(), delivery["headers"])
    except WebhookVerificationError as error:
        return str(error)
    return "verified"


print(json.dumps([verify(delivery) for delivery in json.load(sys.stdin)]))
