-- Since when a webhook is disabled and why, and the secret that signs beside the current one until a rotation is complete.
ALTER TABLE messaging.webhooks ADD COLUMN disabled_at TIMESTAMPTZ;
ALTER TABLE messaging.webhooks ADD COLUMN disabled_reason TEXT;
ALTER TABLE messaging.webhooks ADD COLUMN previous_secret BYTEA;
ALTER TABLE messaging.webhooks ADD COLUMN previous_secret_until TIMESTAMPTZ;
UPDATE messaging.webhooks SET disabled_reason = 'administrator' WHERE NOT enabled;
