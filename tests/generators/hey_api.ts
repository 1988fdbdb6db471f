// A client that @hey-api/openapi-ts makes. Usage: node hey_api.js URL
import type { Event } from "./hey-api";
import { createConversation, createSession, listMembers, pollEvents, registerUser, sendMessage } from "./hey-api";
import { createClient, createConfig } from "./hey-api/client";

declare const process: { argv: string[]; exit(status: number): void };

/** The texts of new messages. The compiler knows the data of each type of event. */
function bodies(events: Event[]): string[] {
    return events.flatMap((event) => (event.type === "message.created" ? [event.data.body] : []));
}

async function main() {
    const baseUrl = process.argv[2];
    const open = createClient(createConfig({ baseUrl, throwOnError: true }));
    const password = "three blue kites";
    for (const user_name of ["hey-a", "hey-b"]) {
        await registerUser({ client: open, body: { user_name, password }, throwOnError: true });
    }
    const session = await createSession({ client: open, body: { user_name: "hey-a", password }, throwOnError: true });
    const client = createClient(createConfig({ baseUrl, auth: (scheme) => (scheme.scheme === "bearer" ? session.data.token ?? undefined : undefined) }));
    const start = await pollEvents({ client, throwOnError: true });
    const made = await createConversation({
        client,
        body: { kind: "group", title: "Kites", member_user_names: ["hey-b"] },
        throwOnError: true,
    });
    await sendMessage({ client, body: { conversation_id: made.data.id, body: "hey" }, throwOnError: true });
    const members = await listMembers({ client, path: { id: made.data.id }, throwOnError: true });
    const names = members.data.map((member) => `${member.user.user_name} ${member.role}`);
    if (names.join() !== "hey-a owner,hey-b member") {
        throw new Error(names.join());
    }
    const read = await pollEvents({ client, query: { after: start.data.cursor, wait: 5 }, throwOnError: true });
    if (!bodies(read.data.events).includes("hey")) {
        throw new Error(JSON.stringify(read.data));
    }
}

main().catch((error: unknown) => {
    console.error(error);
    process.exit(1);
});
