import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.time.Duration;
import java.util.Arrays;
import java.util.Random;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** A client in Java. Client VERSION NAME=HOST:PORT/CASE,CASE… prints NAME/CASE COUNT for each, see matrix_test.go. */
public class Client {
    static final int LARGE = 4 << 20;
    static HttpClient client;

    public static void main(String[] args) {
        for (int i = 1; i < args.length; i++) {
            int eq = args[i].indexOf('='), slash = args[i].indexOf('/', eq);
            String name = args[i].substring(0, eq), base = "http://" + args[i].substring(eq + 1, slash);
            client = HttpClient.newBuilder().version(HttpClient.Version.valueOf(args[0])).connectTimeout(Duration.ofSeconds(20)).build();
            for (String c : args[i].substring(slash + 1).split(",")) {
                try {
                    System.out.println(name + "/" + c + " " + run(c, base));
                } catch (Exception e) {
                    System.out.println(name + "/" + c + " failed: " + e);
                }
            }
        }
        System.exit(0);
    }

    static byte[] fill(int n) {
        byte[] b = new byte[n];
        Arrays.fill(b, (byte) 'x');
        return b;
    }

    static HttpRequest.Builder to(String uri) {
        return HttpRequest.newBuilder(URI.create(uri)).timeout(Duration.ofSeconds(60));
    }

    static HttpResponse<byte[]> send(HttpRequest r) throws Exception {
        HttpResponse<byte[]> a = client.send(r, BodyHandlers.ofByteArray());
        if (a.statusCode() != 200) {
            throw new IllegalStateException("status " + a.statusCode() + ": " + new String(a.body()));
        }
        return a;
    }

    static int run(String c, String base) throws Exception {
        int ok = 0;
        switch (c) {
            case "hello":
                for (int i = 0; i < 20; i++) ok += new String(send(to(base + "/hello").build()).body()).equals("hello") ? 1 : 0;
                break;
            case "echo":
                for (int i = 0; i < 10; i++) ok += echo(base, BodyPublishers.ofByteArray(fill(5000)), fill(5000));
                break;
            case "chunkedecho":
                for (int i = 0; i < 10; i++) ok += echo(base, BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(fill(3500))), fill(3500));
                break;
            case "chunked":
                for (int i = 0; i < 10; i++) ok += send(to(base + "/chunked?n=7").build()).body().length == 7000 ? 1 : 0;
                break;
            case "large":
                ok += send(to(base + "/large?n=" + LARGE).build()).body().length == LARGE ? 1 : 0;
                byte[] body = new byte[LARGE];
                new Random(1).nextBytes(body);
                ok += echo(base, BodyPublishers.ofByteArray(body), body);
                break;
            case "head":
                for (int i = 0; i < 5; i++) {
                    HttpResponse<byte[]> a = send(to(base + "/large?n=12345").method("HEAD", BodyPublishers.noBody()).build());
                    ok += a.body().length == 0 && a.headers().firstValue("content-length").orElse("").equals("12345") ? 1 : 0;
                }
                break;
            case "expect":
                for (int i = 0; i < 5; i++) {
                    HttpRequest r = to(base + "/echo").expectContinue(true).POST(BodyPublishers.ofString("12345")).build();
                    ok += new String(send(r).body()).equals("12345") ? 1 : 0;
                }
                break;
            case "websocket":
                return websocket(base);
            default:
                throw new IllegalArgumentException(c);
        }
        return ok;
    }

    static int echo(String base, HttpRequest.BodyPublisher p, byte[] want) throws Exception {
        return Arrays.equals(send(to(base + "/echo").POST(p).build()).body(), want) ? 1 : 0;
    }

    static int websocket(String base) throws Exception {
        LinkedBlockingQueue<String> got = new LinkedBlockingQueue<>();
        WebSocket ws = client.newWebSocketBuilder().buildAsync(URI.create(base.replace("http:", "ws:") + "/ws"), new WebSocket.Listener() {
            @Override
            public CompletionStage<?> onText(WebSocket w, CharSequence data, boolean last) {
                got.add(data.toString());
                w.request(1);
                return null;
            }
        }).get(60, TimeUnit.SECONDS);
        int ok = 0;
        for (int i = 0; i < 10; i++) {
            ws.sendText("message " + i, true).get(60, TimeUnit.SECONDS);
            ok += ("message " + i).equals(got.poll(60, TimeUnit.SECONDS)) ? 1 : 0;
        }
        ws.sendClose(WebSocket.NORMAL_CLOSURE, "").get(60, TimeUnit.SECONDS);
        return ok;
    }
}
