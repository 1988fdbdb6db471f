// A client that openapi-typescript and openapi-fetch make. Usage: node openapi_fetch.js URL
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi_typescript";

declare const process: { argv: string[]; exit(status: number): void };

type Event = components["schemas"]["Event"];

function expect<T>(value: T | undefined, what: string): T {
    if (value === undefined) {
        throw new Error(`${what} is missing`);
    }
    return value;
}

/** The texts of new messages. The compiler knows the data of each type of event. */
function bodies(events: Event[]): string[] {
    const found: string[] = [];
    for (const event of events) {
        if (event.type === "message.created") {
            found.push(event.data.body);
        } else if (event.type === "member.added") {
            const role: "member" | "admin" | "owner" | null = event.data.role;
            found.push(`${event.data.user_name} is ${role}`);
        }
    }
    return found;
}

async function main() {
    const open = createClient<paths>({ baseUrl: process.argv[2] });
    const password = "three blue kites";
    for (const user_name of ["fetch-a", "fetch-b"]) {
        const made = await open.POST("/api/users", { body: { user_name, password } });
        expect(made.data?.id, JSON.stringify(made.error));
    }
    const session = await open.POST("/api/sessions", { body: { user_name: "fetch-a", password } });
    const token = expect(session.data?.token, "the token");
    const client = createClient<paths>({ baseUrl: process.argv[2], headers: { authorization: `Bearer ${token}` } });
    const start = expect((await client.GET("/api/events")).data, "the cursor");
    const group = await client.POST("/api/conversations", {
        body: { kind: "group", title: "Kites", member_user_names: ["fetch-b"] },
    });
    const conversation_id = expect(group.data, "the group").id;
    const sent = await client.POST("/api/messages", { body: { conversation_id, body: "hey" } });
    expect(sent.data, JSON.stringify(sent.error));
    const members = await client.GET("/api/conversations/{id}/members", { params: { path: { id: conversation_id } } });
    const names = expect(members.data, "the members").map((member) => `${member.user.user_name} ${member.role}`);
    if (names.join() !== "fetch-a owner,fetch-b member") {
        throw new Error(names.join());
    }
    const read = await client.GET("/api/events", { params: { query: { after: start.cursor, wait: 5 } } });
    const found = bodies(expect(read.data, "the events").events);
    if (!found.includes("hey") || !found.includes("fetch-b is member")) {
        throw new Error(JSON.stringify(read.data));
    }
    const refused = await open.GET("/api/users");
    if (refused.error?.code !== "unauthenticated") {
        throw new Error(JSON.stringify(refused.error));
    }
}

main().catch((error: unknown) => {
    console.error(error);
    process.exit(1);
});
