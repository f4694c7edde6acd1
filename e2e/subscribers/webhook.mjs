// Receives Kiln's events as webhooks, verifies their signatures, and prints a line
// for each build that ended: node webhook.mjs, with KILN_WEBHOOK_SECRET.
// Written after docs/subscribe.md.
import { createServer } from "node:http";
import { HTTP } from "cloudevents";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const verifier = new Webhook(process.env.KILN_WEBHOOK_SECRET);
const seen = new Set();

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  try {
    verifier.verify(body, request.headers); // over the bytes as they came; throws if it is not Kiln's or too old
    const event = HTTP.toEvent({ headers: request.headers, body: body.toString("utf8") });
    event.validate();
    take(event);
    response.writeHead(204).end();
  } catch (error) {
    const status = error instanceof WebhookVerificationError ? 401 : 400;
    console.error(`refused: ${error.message}`);
    response.writeHead(status).end();
  }
});

function take(event) {
  const key = `${event.source}#${event.id}`;
  if (event.type !== "dev.kilnhook.build.finished.v1" || seen.has(key)) return;
  seen.add(key);
  console.log(JSON.stringify({
    id: event.id, outcome: event.outcome, digest: event.imagedigest, subject: event.subject,
    repository: event.data.image?.repository, tags: event.data.image?.tagsMoved,
  }));
}

server.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => {
  console.log(JSON.stringify({ listening: `http://127.0.0.1:${server.address().port}/` }));
});
