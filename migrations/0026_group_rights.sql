-- Finds the owners of a group without reading its other members.
CREATE INDEX members_owners ON messaging.members (conversation_id) WHERE role = 'owner';

-- Invites whose creator may not invite any more, or was erased.
DELETE FROM messaging.invites WHERE id NOT IN (
    SELECT i.id FROM messaging.invites i
      JOIN messaging.members m ON m.conversation_id = i.conversation_id AND m.user_id = i.created_by
      JOIN messaging.users u ON u.id = i.created_by
     WHERE m.role IN ('owner', 'admin') AND u.banned_at IS NULL);

-- In groups whose owners are all banned, the admin who joined first becomes an owner; without an admin, the member.
UPDATE messaging.members SET role = 'owner' WHERE user_id = (
    SELECT s.user_id FROM messaging.members s JOIN messaging.users u ON u.id = s.user_id
     WHERE s.conversation_id = messaging.members.conversation_id AND u.banned_at IS NULL
     ORDER BY CASE s.role WHEN 'admin' THEN 0 ELSE 1 END, s.joined_at, s.user_id LIMIT 1)
   AND conversation_id IN (
    SELECT o.conversation_id FROM messaging.members o JOIN messaging.users u ON u.id = o.user_id
     WHERE o.role = 'owner' AND u.banned_at IS NOT NULL)
   AND conversation_id NOT IN (
    SELECT o.conversation_id FROM messaging.members o JOIN messaging.users u ON u.id = o.user_id
     WHERE o.role = 'owner' AND u.banned_at IS NULL);
