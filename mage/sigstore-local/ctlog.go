package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"path/filepath"
	"time"

	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/google/certificate-transparency-go/trillian/ctfe"
	"github.com/google/certificate-transparency-go/trillian/ctfe/configpb"
	"github.com/google/trillian"
	trilliankeys "github.com/google/trillian/crypto/keys"
	"github.com/google/trillian/crypto/keys/der"
	"github.com/google/trillian/crypto/keyspb"
	"github.com/google/trillian/extension"
	"github.com/google/trillian/log"
	"github.com/google/trillian/monitoring"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/server/interceptor"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/util/clock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// newCertificateLog runs Google's certificate log over a Trillian tree in memory and returns Fulcio's
// client of it; neither has a port. The tree begins anew in every run. Its key does not, so promises
// (SCTs) of earlier runs stay verifiable.
func newCertificateLog(ctx context.Context, dir string, k keys) (*ctclient.LogClient, error) {
	tree, id, err := newTree(ctx)
	if err != nil {
		return nil, err
	}
	config, err := logConfig(dir, k, id)
	if err != nil {
		return nil, err
	}
	instance, err := ctfe.SetUpInstance(ctx, ctfe.InstanceOptions{
		Validated: config, Client: tree, Deadline: 10 * time.Second,
		MetricFactory: monitoring.InertMetricFactory{}, RequestLog: new(ctfe.DefaultRequestLog),
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for path, handler := range instance.Handlers {
		mux.Handle(path, handler)
	}
	public, err := x509.MarshalPKIXPublicKey(k.ctlog.key.Public())
	if err != nil {
		return nil, err
	}
	pipe := serveInMemory(ctx, (&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}).Serve)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }}}
	key := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return ctclient.New("http://memory/ctlog", client, jsonclient.Options{PublicKey: string(key)})
}

// logConfig says what the log accepts: code signing certificates under Fulcio's root.
func logConfig(dir string, k keys, tree int64) (*ctfe.ValidatedLogConfig, error) {
	private, err := x509.MarshalPKCS8PrivateKey(k.ctlog.key)
	if err != nil {
		return nil, err
	}
	trilliankeys.RegisterHandler(&keyspb.PrivateKey{}, der.FromProto)
	key, err := anypb.New(&keyspb.PrivateKey{Der: private})
	if err != nil {
		return nil, err
	}
	roots := filepath.Join(dir, "fulcio_root.pem")
	if err := replaceFile(roots, encodeChain(k.fulcio.root()), 0o644); err != nil {
		return nil, err
	}
	return ctfe.ValidateLogConfig(&configpb.LogConfig{
		LogId: tree, Prefix: "ctlog", RootsPemFile: []string{roots}, PrivateKey: key,
		ExtKeyUsages: []string{"CodeSigning"}, MaxMergeDelaySec: 86400, ExpectedMergeDelaySec: 10,
	})
}

// newTree runs Trillian and returns a client with a new, empty log.
func newTree(ctx context.Context) (trillian.TrillianLogClient, int64, error) {
	store := memory.NewTreeStorage()
	registry := extension.Registry{
		AdminStorage: memory.NewAdminStorage(store), LogStorage: memory.NewLogStorage(store, nil),
		QuotaManager: quota.Noop(), MetricFactory: monitoring.InertMetricFactory{},
	}
	backend := grpc.NewServer(grpc.UnaryInterceptor(interceptor.ErrorWrapper))
	trillian.RegisterTrillianLogServer(backend, server.NewTrillianLogRPCServer(registry, clock.System))
	trillian.RegisterTrillianAdminServer(backend, admin.New(registry, nil))
	pipe := serveInMemory(ctx, backend.Serve)
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		return nil, 0, err
	}
	tree, err := trillian.NewTrillianAdminClient(conn).CreateTree(ctx, &trillian.CreateTreeRequest{Tree: &trillian.Tree{
		TreeState: trillian.TreeState_ACTIVE, TreeType: trillian.TreeType_LOG, MaxRootDuration: durationpb.New(0),
	}})
	if err != nil {
		return nil, 0, err
	}
	client := trillian.NewTrillianLogClient(conn)
	if _, err := client.InitLog(ctx, &trillian.InitLogRequest{LogId: tree.TreeId}); err != nil {
		return nil, 0, err
	}
	sequence := log.OperationInfo{Registry: registry, BatchSize: 50, NumWorkers: 1, RunInterval: time.Second, TimeSource: clock.System}
	go log.NewOperationManager(sequence, log.NewSequencerManager(registry, 0)).OperationLoop(ctx)
	return client, tree.TreeId, nil
}

// serveInMemory serves on a listener without a port until the context ends.
func serveInMemory(ctx context.Context, serve func(net.Listener) error) *bufconn.Listener {
	pipe := bufconn.Listen(1 << 20)
	context.AfterFunc(ctx, func() { pipe.Close() })
	go func() { _ = serve(pipe) }()
	return pipe
}
