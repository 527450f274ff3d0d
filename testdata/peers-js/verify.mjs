// Verifies Sigstore bundles with @sigstore/verify, which shares no code with sigstore-go:
//
//   node verify.mjs trusted_root.json ISSUER SUBJECT DIGEST=bundle.json…
//
// SUBJECT is the certificate's, a URI; DIGEST is sha256:…, of the manifest that a bundle must be
// about. One line of JSON per bundle; exit 1 when any of them is refused.
import { readFileSync } from 'node:fs';
import { bundleFromJSON } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';
import { toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify';

const [root, issuer, subject, ...cases] = process.argv.slice(2);
const read = (path) => JSON.parse(readFileSync(path, 'utf8'));

const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(read(root))), {
  ctlogThreshold: 1, tlogThreshold: 1, timestampThreshold: 1,
});
// The library takes the subject for a regular expression.
const exactly = '^' + subject.replace(/[.*+?^${}()|[\]\\]/g, '\\$&') + '$';

// verify throws what is wrong, or returns the predicate type. A verifier of bundles looks at the
// signature over a statement; whom the statement is about is for its caller to compare.
function verify(digest, path) {
  const bundle = bundleFromJSON(read(path));
  verifier.verify(toSignedEntity(bundle), { subjectAlternativeName: exactly, extensions: { issuer } });
  const statement = JSON.parse(bundle.content.dsseEnvelope.payload.toString());
  const about = statement.subject.map((s) => 'sha256:' + s.digest.sha256);
  if (about.length !== 1 || about[0] !== digest) {
    throw new Error(`it is about ${about}, not ${digest}`);
  }
  return statement.predicateType;
}

for (const one of cases) {
  const [digest, path] = one.split('=', 2);
  try {
    console.log(JSON.stringify({ digest, predicate: verify(digest, path) }));
  } catch (e) {
    console.log(JSON.stringify({ digest, refused: e.message }));
    process.exitCode = 1;
  }
}
